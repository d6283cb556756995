//! tonic over a Unix socket.

use crate::{Caller, Failed, PASSWORD, USER, alone, runtime};
use std::path::Path;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

mod generated {
    tonic::include_proto!("bench.Auth");
}
use generated::auth_client::AuthClient;
use generated::auth_server::{Auth, AuthServer};

#[derive(Clone, PartialEq, prost::Message)]
pub struct Credentials {
    #[prost(string, tag = "1")]
    user: String,
    #[prost(string, tag = "2")]
    password: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Verdict {
    #[prost(bool, tag = "1")]
    ok: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Blob {
    #[prost(bytes = "vec", tag = "1")]
    data: Vec<u8>,
}

struct Service;

#[tonic::async_trait]
impl Auth for Service {
    async fn login(&self, asked: Request<Credentials>) -> Result<Response<Verdict>, Status> {
        let asked = asked.into_inner();
        let ok = crate::login(&asked.user, &asked.password);
        Ok(Response::new(Verdict { ok }))
    }

    async fn echo(&self, asked: Request<Blob>) -> Result<Response<Blob>, Status> {
        Ok(Response::new(asked.into_inner()))
    }
}

pub fn serve(path: &Path) -> Result<(), Failed> {
    runtime()?.block_on(async {
        let listener = UnixListenerStream::new(UnixListener::bind(path)?);
        let service = AuthServer::new(Service);
        Ok(Server::builder()
            .add_service(service)
            .serve_with_incoming(listener)
            .await?)
    })
}

pub struct Tonic {
    runtime: Runtime,
    client: AuthClient<Channel>,
}

impl Tonic {
    pub fn connect(path: &Path) -> Result<Self, Failed> {
        let runtime = alone()?;
        let endpoint = Endpoint::from_shared(format!("unix://{}", path.display()))?;
        let client = AuthClient::new(runtime.block_on(endpoint.connect())?);
        Ok(Self { runtime, client })
    }
}

impl Caller for Tonic {
    fn login(&mut self) -> Result<bool, Failed> {
        let (user, password) = (USER.into(), PASSWORD.into());
        let call = self.client.login(Credentials { user, password });
        Ok(self.runtime.block_on(call)?.into_inner().ok)
    }

    fn echo(&mut self, data: Vec<u8>) -> Result<Option<Vec<u8>>, Failed> {
        let call = self.client.echo(Blob { data });
        Ok(Some(self.runtime.block_on(call)?.into_inner().data))
    }
}
