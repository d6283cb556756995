//! varlink's synchronous crate. Its JSON has no bytes, so nothing large is asked of it.

use crate::{Caller, Failed, PASSWORD, USER};
use std::path::Path;
use varlink::{Connection, ListenConfig, VarlinkService};

#[allow(dead_code, nonstandard_style, clippy::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/bench.auth.rs"));
}
use generated::{Call_Login, VarlinkClient, VarlinkClientInterface, VarlinkInterface};

struct Service;

impl VarlinkInterface for Service {
    fn login(&self, call: &mut dyn Call_Login, user: String, password: String) -> varlink::Result<()> {
        call.reply(crate::login(&user, &password))
    }
}

pub fn serve(path: &Path) -> Result<(), Failed> {
    let interfaces: Vec<Box<dyn varlink::Interface + Send + Sync>> = vec![Box::new(generated::new(Box::new(Service)))];
    let service = VarlinkService::new("bench", "bench", "1", "", interfaces);
    // Without a worker for each connection at once it makes them one after the other.
    let config = ListenConfig {
        initial_worker_threads: 16,
        ..Default::default()
    };
    Ok(varlink::listen(service, &format!("unix:{}", path.display()), &config)?)
}

pub struct Varlink(VarlinkClient);

impl Varlink {
    pub fn connect(path: &Path) -> Result<Self, Failed> {
        let connection = Connection::with_address(&format!("unix:{}", path.display()))?;
        Ok(Self(VarlinkClient::new(connection)))
    }
}

impl Caller for Varlink {
    fn login(&mut self) -> Result<bool, Failed> {
        Ok(self.0.login(USER.into(), PASSWORD.into()).call()?.ok)
    }
}
