//! PySecure: every service of an application in its own namespaces, seeing only what one manifest grants.
//!
//! Data flows one way: [`manifest`] → [`model`] → [`plan`] → [`compile`] → [`launch`] → [`supervise`].

pub mod beneath;
pub mod cli;
pub mod compile;
pub mod doctor;
pub mod durable;
pub mod jail;
pub mod launch;
pub mod manifest;
pub mod model;
pub mod plain;
pub mod plan;
pub mod python;
pub mod rpc;
pub mod supervise;
pub mod sys;
pub mod values;
pub mod walk;
