pub mod diagnostic;
pub mod types;
