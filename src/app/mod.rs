//! An app on this host, from its manifest to all that its services need before they start: read, held against what lies on
//! disk, planned, its data renamed, initialized and made.
//!
//! What comes of it are values, and errors with their causes. Nothing here knows of a command line or a terminal: who calls
//! says what there is to say, and hears what happens meanwhile by a [`Listener`].
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod difference;
pub mod dry_run;
mod error;
pub mod limits;
mod load;
mod ready;
pub mod renamed;
pub mod run;
pub mod sandbox;
mod setup;
mod text;
pub mod trace;

pub use difference::Difference;
pub use error::AppError;
pub use load::{Given, Listener, Loaded, TakenOver};
pub use ready::{lacking, ready, setup_again};
pub use text::ManifestText;
