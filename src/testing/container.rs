//! [`Container`]: a broker in Docker.

use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use testcontainers::ContainerAsync;
use testcontainers::GenericImage;
use testcontainers::ImageExt;
use testcontainers::core::CmdWaitFor;
use testcontainers::core::ExecCommand;
use testcontainers::core::IntoContainerPort;
use testcontainers::core::WaitFor;
use testcontainers::runners::AsyncRunner;

use crate::testing::error::Error;
use crate::testing::error::Result;
use crate::testing::ports;

/// How long a container may take to start, its image being there; 4 s on an idle machine. Pulling comes on top.
const START_LIMIT: Duration = Duration::from_secs(120);
const CONF_FILE: &str = "/etc/rabbitmq/conf.d/90-taskhare.conf";

/// A container of an image like `rabbitmq:4-management`. Dropping it removes the container. So does a shell that
/// outlives this process, where there is a `docker` command: a static is never dropped, nor is anything at kill -9.
#[derive(Debug)]
pub(super) struct Container {
    container: ContainerAsync<GenericImage>,
    pub(super) host: String,
    pub(super) amqp_port: u16,
    pub(super) management_port: u16,
    /// Holds the pipe that the shell waits on.
    _watchdog: Option<Child>,
}

impl Container {
    pub(super) async fn start(image: &str, tag: &str, conf: &str) -> Result<Self> {
        // Ours to choose, so that they are the same after a restart.
        let [amqp_port, management_port] = ports::free()?;
        let conf =
            format!("collect_statistics_interval = 500\nvm_memory_high_watermark.relative = 0.4\n{conf}\n");
        let container = GenericImage::new(image, tag)
            .with_wait_for(WaitFor::message_on_stdout("Server startup complete"))
            .with_mapped_port(amqp_port, 5672.tcp())
            .with_mapped_port(management_port, 15672.tcp())
            .with_copy_to(CONF_FILE, conf.into_bytes())
            .with_startup_timeout(START_LIMIT)
            .start()
            .await
            .map_err(Error::because(format!(
                "no rabbitmq-server is installed, and Docker did not start {image}:{tag} (TASKHARE_TEST_IMAGE names \
                 another image, `./dev image` makes one without a registry)"
            )))?;
        let watchdog = watchdog(container.id());
        // `localhost`, or the gateway of Docker's bridge when we seem to be in a container ourselves.
        let host = container.get_host().await.map_err(Error::because("no address for the container"))?;
        Ok(Self { container, host: host.to_string(), amqp_port, management_port, _watchdog: watchdog })
    }

    pub(super) async fn kill(&self) -> Result<()> {
        self.container.stop_with_timeout(Some(0)).await.map_err(Error::because("cannot kill the container"))
    }

    pub(super) async fn stop(&self) -> Result<()> {
        self.container.stop_with_timeout(Some(30)).await.map_err(Error::because("cannot stop the container"))
    }

    pub(super) async fn start_again(&self) -> Result<()> {
        self.container.start().await.map_err(Error::because("cannot start the container again"))?;
        // It fails where there is no node yet, and waits for one that starts.
        let started = Instant::now();
        loop {
            match self.rabbitmqctl(&["await_startup".to_owned()]).await {
                Err(error) if started.elapsed() > START_LIMIT => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
                Ok(_) => return Ok(()),
            }
        }
    }

    pub(super) async fn freeze(&self) -> Result<()> {
        self.container.pause().await.map_err(Error::because("cannot pause the container"))
    }

    pub(super) async fn thaw(&self) -> Result<()> {
        self.container.unpause().await.map_err(Error::because("cannot unpause the container"))
    }

    pub(super) async fn rabbitmqctl(&self, args: &[String]) -> Result<String> {
        let what = format!("rabbitmqctl {}", args.join(" "));
        let cannot = |what: &str| Error::because(format!("cannot run {what} in the container"));
        let command = ["rabbitmqctl".to_owned()].into_iter().chain(args.iter().cloned());
        let command = ExecCommand::new(command).with_cmd_ready_condition(CmdWaitFor::exit());
        let mut done = self.container.exec(command).await.map_err(cannot(&what))?;
        let code = done.exit_code().await.map_err(cannot(&what))?;
        let [stdout, stderr] = [done.stdout_to_vec().await, done.stderr_to_vec().await];
        if code != Some(0) {
            let said = stderr.map_err(cannot(&what))?;
            return Err(Error::new(format!(
                "{what}: exit {code:?}: {}",
                String::from_utf8_lossy(&said).trim()
            )));
        }
        Ok(String::from_utf8_lossy(&stdout.map_err(cannot(&what))?).into_owned())
    }
}

fn watchdog(container: &str) -> Option<Child> {
    use std::os::unix::process::CommandExt;

    Command::new("/bin/sh")
        .args(["-c", r#"read -r _; exec docker rm -f -v "$1""#, "sh", container])
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()
}
