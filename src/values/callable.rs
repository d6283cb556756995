//! What a caller may call.

/// Which functions of a callee a caller may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Callable {
    /// `"*"`
    All,
    Functions(Vec<String>),
}

/// The least: what an entry has whose value could not be decoded.
impl Default for Callable {
    fn default() -> Self {
        Callable::Functions(Vec::new())
    }
}
