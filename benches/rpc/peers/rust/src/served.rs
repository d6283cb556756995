//! tarpc over a Unix socket with bincode, served as its documentation shows it.

use crate::{Caller, Failed, PASSWORD, USER, alone, runtime};
use futures::StreamExt;
use serde_bytes::ByteBuf;
use std::path::Path;
use tarpc::context::{self, Context};
use tarpc::serde_transport::unix;
use tarpc::server::{BaseChannel, Channel};
use tarpc::tokio_serde::formats::Bincode;
use tokio::runtime::Runtime;

#[tarpc::service]
trait Auth {
    async fn login(user: String, password: String) -> bool;
    async fn echo(data: ByteBuf) -> ByteBuf;
}

#[derive(Clone)]
struct Service;

impl Auth for Service {
    async fn login(self, _: Context, user: String, password: String) -> bool {
        crate::login(&user, &password)
    }

    async fn echo(self, _: Context, data: ByteBuf) -> ByteBuf {
        data
    }
}

pub fn serve(path: &Path) -> Result<(), Failed> {
    runtime()?.block_on(async {
        let mut listener = unix::listen(path, Bincode::default).await?;
        while let Some(transport) = listener.next().await {
            let calls = BaseChannel::with_defaults(transport?).execute(Service.serve());
            tokio::spawn(calls.for_each(async |call| drop(tokio::spawn(call))));
        }
        Ok(())
    })
}

pub struct Tarpc {
    runtime: Runtime,
    client: AuthClient,
}

impl Tarpc {
    pub fn connect(path: &Path) -> Result<Self, Failed> {
        let runtime = alone()?;
        let client = runtime.block_on(async {
            let transport = unix::connect(path, Bincode::default).await?;
            Ok::<_, std::io::Error>(AuthClient::new(Default::default(), transport).spawn())
        })?;
        Ok(Self { runtime, client })
    }
}

impl Caller for Tarpc {
    fn login(&mut self) -> Result<bool, Failed> {
        let call = self.client.login(context::current(), USER.into(), PASSWORD.into());
        Ok(self.runtime.block_on(call)?)
    }

    fn echo(&mut self, data: Vec<u8>) -> Result<Option<Vec<u8>>, Failed> {
        let call = self.client.echo(context::current(), ByteBuf::from(data));
        Ok(Some(self.runtime.block_on(call)?.into_vec()))
    }
}
