//! The compiled core under the Python package `pysecure_rpc`: docs/reference/rpc-protocol.md's wire straight to and from objects of
//! Python's, and the fast path of a call that is like most. Whatever is out of the ordinary (a stream, a coroutine, an
//! error, a caller that does not read) is left to the Python files beside it, which do all of it without this core, too.
//!
//! Nothing here makes anything of what came over the wire but plain values, and nothing is looked up by a name from it
//! but in the table of functions that this caller was granted.
#![allow(
    unreachable_pub,
    reason = "a module's `pub` is for its neighbours: nothing but Python sees this crate"
)]

mod admission;
mod area;
mod call;
mod check;
mod client;
mod connection;
mod crowd;
mod decode;
mod encode;
mod failed;
mod fd;
mod ffi;
mod figures;
mod handler;
mod leader;
mod message;
mod names;
mod pace;
mod serving;
mod socket;
mod sync;

use pyo3::prelude::*;

// What several threads may do at once is ordered by the interpreter's lock throughout: a free-threaded CPython has to keep it.
#[pymodule(gil_used = true)]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<area::Area>()?;
    module.add_class::<area::PeerArea>()?;
    module.add_class::<figures::Counters>()?;
    module.add_class::<message::Message>()?;
    module.add_class::<client::ClientConn>()?;
    module.add_class::<client::FastCall>()?;
    module.add_class::<serving::Leader>()?;
    module.add_class::<call::Call>()?;
    module.add_class::<admission::Admission>()?;
    module.add_class::<connection::ServerConn>()?;
    module.add_class::<handler::FastHandler>()?;
    module.add_class::<handler::FastHandlers>()?;
    module.add_function(wrap_pyfunction!(message::pack, module)?)?;
    module.add_function(wrap_pyfunction!(message::unpack, module)?)?;
    module.add_function(wrap_pyfunction!(message::seal, module)?)?;
    module.add_function(wrap_pyfunction!(message::open_message, module)?)?;
    module.add_function(wrap_pyfunction!(message::open_call, module)?)?;
    Ok(())
}
