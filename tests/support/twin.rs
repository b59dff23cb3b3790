//! A further daemon on the world's store.

use std::{fs, path::PathBuf};

use bursar::{
    client::{AgentClient, OperatorClient},
    config::Config,
    devnet::free_port,
};

use super::{Daemon, World, daemon::Environment};

/// A daemon of its own configuration, address and files, on the store, the chain and the seed of a
/// world.
pub struct Twin {
    config: PathBuf,
    /// Where it listens.
    pub api: String,
    env: Environment,
    daemon: Option<Daemon>,
}

impl Twin {
    /// Starts one; `name` tells it from others.
    pub async fn start(world: &World, name: &str) -> Self {
        Self::start_with(world, name, Vec::new()).await
    }

    /// The same with something in its environment.
    pub async fn start_with(world: &World, name: &str, env: Environment) -> Self {
        let mut config: Config =
            toml::from_str(&fs::read_to_string(&world.card.config).unwrap()).unwrap();
        config.listen.set_port(free_port().unwrap());
        let api = format!("http://{}", config.listen);
        config.public_origin.clone_from(&api);
        config.audit_anchors = PathBuf::from(format!("{name}.anchors"));
        let path = world.card.config.with_file_name(format!("{name}.toml"));
        fs::write(&path, toml::to_string(&config).unwrap()).unwrap();
        let mut twin = Self { config: path, api, env, daemon: None };
        twin.restart().await;
        twin
    }

    pub async fn restart(&mut self) {
        assert!(self.daemon.is_none());
        self.daemon = Some(Daemon::start(&self.config, &self.api, &self.env).await);
    }

    /// SIGKILL.
    pub fn kill(&mut self, world: &World) {
        world.tally.add(|counts| counts.kills += 1);
        self.daemon.take().unwrap().kill();
    }

    /// SIGTERM, and its orderly end.
    pub async fn stop(&mut self) {
        self.daemon.take().unwrap().stop().await;
    }

    /// SIGSTOP, or SIGCONT.
    pub fn pause(&self, world: &World, pause: bool) {
        world.tally.add(|counts| counts.pauses += u64::from(pause));
        self.daemon.as_ref().unwrap().pause(pause);
    }

    /// Starts it again if it has ended by itself.
    pub async fn revive(&mut self) {
        if self.daemon.as_mut().unwrap().has_ended() {
            self.daemon = None;
            self.restart().await;
        }
    }

    /// All that it has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.config.with_extension("log")).unwrap_or_default()
    }

    pub fn agent(&self, world: &World, name: &str) -> AgentClient {
        AgentClient::new(&self.api, world.request_key(name)).unwrap()
    }

    pub fn operator(&self, world: &World, index: usize) -> OperatorClient {
        let key = world.operator_key(index);
        OperatorClient::new(&self.api, key, world.card.chain_id, world.card.wallet).unwrap()
    }
}
