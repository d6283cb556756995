//! `rpc`: a service's functions, called, listed and described: for people, as JSON, and as stubs for Python's type checkers.

use super::args::{Cli, Rpc, RpcDeed};
use super::call::{connect, described};
use super::{Done, Failure, load};
use crate::rpc::interface;

pub(super) fn run(cli: &Cli, args: &Rpc) -> Done {
    if let Some(code) = load::with_privilege()? {
        return Ok(code);
    }
    let (service, caller) = match &args.deed {
        RpcDeed::Call(call) => return super::call::run(cli, call),
        RpcDeed::List { caller, service }
        | RpcDeed::Stubs { caller, service, .. }
        | RpcDeed::Describe { caller, service, .. } => (service, caller),
    };
    let (mut connection, caller) = connect(cli, service, caller.as_deref())?;
    let described = described(&mut connection)?;
    match &args.deed {
        RpcDeed::Stubs { output, .. } => {
            let text = interface::stub(service, &caller, &described);
            match output {
                Some(path) => std::fs::write(path, text)
                    .map_err(|e| Failure::failed(format!("write the stub {}: {e}", path.display())))?,
                None => print!("{}", crate::plain::lines(&text)),
            }
            Ok(0)
        }
        RpcDeed::Describe { json: true, .. } => {
            outln!(
                "{}",
                crate::plain::json(&format!("{:#}", interface::description(service, &caller, &described)))
            );
            Ok(0)
        }
        RpcDeed::Describe { .. } => super::call::show_list(&described, service, true),
        // `Call` has gone its way.
        RpcDeed::List { .. } | RpcDeed::Call(_) => super::call::show_list(&described, service, false),
    }
}
