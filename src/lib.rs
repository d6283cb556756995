//! PySecure: every service of an application in its own namespaces, seeing only what one manifest grants.
//!
//! Data flows one way: [`manifest`] → [`model`] → [`plan`] → [`compile`] → [`launch`] → [`supervise`].
//!
//! This library is the program's own: `main.rs` calls [`cli::main`]. Its modules are public so that integration tests, benchmarks
//! and fuzzing targets reach single stages, and for nobody else. No version promises anything about them; what is promised is
//! the manifest, the commands, and the crate `pysecure-rpc`.
#![allow(
    rustdoc::private_intra_doc_links,
    reason = "who reads this crate's documentation builds it with --document-private-items"
)]

pub mod app;
pub mod beneath;
pub mod bundle;
pub mod cause;
pub mod cli;
pub mod compile;
pub mod doctor;
pub mod durable;
pub mod former;
pub mod host;
pub mod jail;
pub mod launch;
pub mod manifest;
pub mod model;
pub mod oneoff;
pub mod packages;
pub mod plain;
pub mod plan;
pub mod python;
pub mod rpc;
pub mod sandbox;
pub mod storage;
pub mod supervise;
pub mod sys;
pub mod transfer;
pub mod values;
pub mod walk;
