//! What is shared by all who work on this host: its directories, with which ids they may work, and the outer namespace
//! in which a user has them.
//!
//! Nothing here knows of a manifest or of what follows from one.

mod dirs;
mod error;
pub mod idmap;
pub mod outer;
mod privilege;
mod reflink;
pub mod subid;

pub use dirs::{Dirs, check_state, make_passable, make_private, make_state};
pub use error::HostError;
pub use privilege::{Privilege, ids_outside};
pub use reflink::copy_content;
