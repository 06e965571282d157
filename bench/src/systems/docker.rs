//! Docker Engine: containers as run in practice, in networks of Docker's own drivers or of vswitchd.

use std::process::Command;

use vswitch_tests::Mounts;

use crate::{
    engine::Engine,
    error::Result,
    lab::{Host, Lab},
    systems::{BASELINE_OF_ENGINES, Running, System, VNI, Vswitchd},
};

/// The containers' network, in which the test setup assigns the low addresses itself.
const SUBNET: [&str; 6] =
    ["--subnet", "10.99.0.0/24", "--gateway", "10.99.0.254", "--ip-range", "10.99.0.128/25"];

/// The configuration that makes vswitchd Docker's plugin.
pub(crate) const PLUGIN: &str = "[docker]\nenabled = true\n";

/// Docker, one engine on each host.
#[derive(Clone, Debug)]
pub struct Docker {
    /// The switch of the containers. `None`: Docker's own driver, `bridge` on one host and swarm's `overlay` on two.
    pub driver: Option<Vswitchd>,
}

impl System for Docker {
    fn name(&self) -> String {
        self.driver.as_ref().map_or_else(|| BASELINE_OF_ENGINES.to_owned(), Vswitchd::name)
    }

    fn missing(&self) -> Option<String> {
        Engine::missing().or_else(|| self.driver.as_ref()?.missing())
    }

    fn version(&self) -> Result<String> {
        match &self.driver {
            None => Engine::version(),
            Some(driver) => driver.version(),
        }
    }

    fn setup(&self, lab: &Lab) -> Result<Running> {
        let mut running = Running::default();
        for host in lab.hosts() {
            let mounts = Mounts::new();
            if let Some(driver) = &self.driver {
                let process = driver.start(host, |command| beside(host, &mounts, command), PLUGIN)?;
                running.processes.push(process);
            }
            running.engines.push(Engine::start(host, mounts)?);
        }
        self.make_network(lab, &running.engines)?;
        for (end, engine) in lab.ends().into_iter().zip(running.engines.iter().cycle()) {
            engine.run(end.port, "bench", end.container)?;
        }
        Ok(running)
    }
}

impl Docker {
    fn make_network(&self, lab: &Lab, engines: &[Engine]) -> Result<()> {
        let create = |engine: &Engine, driver: &[&str]| {
            engine.docker(&[&["network", "create", "--driver"], driver, &SUBNET, &["bench"]].concat())
        };
        match (&self.driver, engines) {
            (None, [first, second]) => {
                swarm(lab, first, second)?;
                create(first, &["overlay", "--attachable"])?;
            }
            (None, engines) => {
                for engine in engines {
                    create(engine, &["bridge"])?;
                }
            }
            (Some(driver), engines) => {
                let (kind, vni) = (format!("kind={}", driver.port.kind()), format!("vni={VNI}"));
                let mut options = vec!["vswitch", "--opt", &kind];
                if engines.len() > 1 {
                    options.extend(["--opt", &vni]);
                }
                for engine in engines {
                    create(engine, &options)?;
                }
            }
        }
        Ok(())
    }
}

/// The command on the host, in the mounts of its engine.
pub(crate) fn beside(host: &Host, mounts: &Mounts, command: &Command) -> Command {
    let mut apart = mounts.command(command.get_program());
    apart.args(command.get_args());
    host.namespace.inside(&apart)
}

/// Joins two engines to a swarm, whose networks reach both.
fn swarm(lab: &Lab, first: &Engine, second: &Engine) -> Result<()> {
    let uplinks: Vec<_> = lab.hosts().iter().filter_map(|host| host.uplink).collect();
    let [own, other] = [0, 1].map(|host| uplinks[host].local.to_string());
    first.docker(&["swarm", "init", "--advertise-addr", &own])?;
    let token = first.docker(&["swarm", "join-token", "--quiet", "worker"])?;
    let manager = format!("{own}:2377");
    second.docker(&["swarm", "join", "--advertise-addr", &other, "--token", &token, &manager])?;
    Ok(())
}
