//! pysecure-rpc, as a program uses it. Its socket comes by LISTEN_FDS, with a caller's name and a policy, as under PySecure.

use crate::{Caller, Failed, PASSWORD, USER};
use pysecure_rpc::{Bytes, Result, rpc};

#[rpc(run_as = "bench")]
fn login(user: String, password: String) -> Result<bool> {
    Ok(crate::login(&user, &password))
}

#[rpc(run_as = "bench")]
fn echo(data: Bytes) -> Result<Bytes> {
    Ok(data)
}

pub fn serve() -> std::result::Result<(), Failed> {
    Ok(pysecure_rpc::start_service("bench")?)
}

pub struct Ours;

impl Caller for Ours {
    fn login(&mut self) -> std::result::Result<bool, Failed> {
        Ok(login(USER.into(), PASSWORD.into())?)
    }

    fn echo(&mut self, data: Vec<u8>) -> std::result::Result<Option<Vec<u8>>, Failed> {
        Ok(Some(echo(Bytes(data))?.0))
    }
}
