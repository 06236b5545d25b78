//! [`Origin`]: where a broker for tests comes from.

use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;

use crate::testing::error::Error;
use crate::testing::error::Result;
use crate::testing::node::Install;

/// Where Debian puts the programs themselves; those on its PATH are wrappers that change the user.
const DEBIAN: &str = "/usr/lib/rabbitmq/bin";

/// Where a broker comes from.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Somebody runs it.
    Given { url: String, management: Option<String> },
    /// We start it.
    Installed(Install),
    /// Docker starts it.
    #[cfg(feature = "testcontainers")]
    Docker { image: String, tag: String },
}

/// What the search depends on.
pub(super) trait Machine {
    /// An environment variable.
    fn variable(&self, name: &str) -> Option<OsString>;
    /// Whether there is a file at `path`.
    fn has(&self, path: &Path) -> bool;
}

/// This machine.
pub(super) struct ThisMachine;

impl Machine for ThisMachine {
    fn variable(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name).filter(|value| !value.is_empty())
    }

    fn has(&self, path: &Path) -> bool {
        path.is_file()
    }
}

impl Origin {
    /// For a broker that tests share.
    pub(super) fn shared(machine: &impl Machine) -> Result<Self> {
        let text = |name| machine.variable(name).map(|value| value.to_string_lossy().into_owned());
        match text("TASKHARE_TEST_URL") {
            Some(url) => Ok(Self::Given { url, management: text("TASKHARE_TEST_MANAGEMENT") }),
            None => Self::private(machine),
        }
    }

    /// For a broker that a test may break.
    pub(super) fn private(machine: &impl Machine) -> Result<Self> {
        if let Some(root) = machine.variable("TASKHARE_TEST_ROOT").map(PathBuf::from) {
            let bin = PathBuf::from(DEBIAN);
            return match machine.has(&root.join("usr/lib/rabbitmq/bin/rabbitmq-server")) {
                true => Ok(Self::Installed(Install { root: Some(root), bin })),
                false => Err(Error::new(format!(
                    "TASKHARE_TEST_ROOT is {}, and {DEBIAN}/rabbitmq-server is not in there: \
                     `./dev root 4.0` unpacks such a directory",
                    root.display()
                ))),
            };
        }
        #[cfg(feature = "testcontainers")]
        if let Some(image) = machine.variable("TASKHARE_TEST_IMAGE") {
            return Ok(Self::docker(&image.to_string_lossy()));
        }
        let home = machine.variable("RABBITMQ_HOME").map(|home| PathBuf::from(home).join("sbin"));
        let path = machine.variable("PATH").unwrap_or_default();
        let mut places = [PathBuf::from(DEBIAN)].into_iter().chain(home).chain(std::env::split_paths(&path));
        if let Some(bin) = places.find(|bin| machine.has(&bin.join("rabbitmq-server"))) {
            return Ok(Self::Installed(Install { root: None, bin }));
        }
        Self::without_server()
    }

    #[cfg(feature = "testcontainers")]
    fn docker(image: &str) -> Self {
        // A colon before the last slash is a registry's port.
        let (image, tag) = match image.rsplit_once(':') {
            Some((image, tag)) if !tag.contains('/') => (image, tag),
            _ => (image, "latest"),
        };
        Self::Docker { image: image.to_owned(), tag: tag.to_owned() }
    }

    #[cfg(feature = "testcontainers")]
    fn without_server() -> Result<Self> {
        Ok(Self::docker("rabbitmq:4-management"))
    }

    #[cfg(not(feature = "testcontainers"))]
    fn without_server() -> Result<Self> {
        Err(Error::new(format!(
            "no RabbitMQ to test with: install one (Debian and Ubuntu: `apt-get install rabbitmq-server`; macOS: \
             `brew install rabbitmq`), which is looked for in {DEBIAN}, $RABBITMQ_HOME/sbin and $PATH; or set \
             TASKHARE_TEST_URL to the amqp:// URL of one that runs, with its management plugin; or turn on the \
             feature `testcontainers` of taskhare, which starts one in Docker"
        )))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::ffi::OsString;
    use std::path::Path;
    use std::path::PathBuf;

    use super::Machine;
    use super::Origin;
    use crate::testing::node::Install;

    struct Fake {
        variables: HashMap<&'static str, &'static str>,
        files: Vec<&'static str>,
    }

    impl Machine for Fake {
        fn variable(&self, name: &str) -> Option<OsString> {
            self.variables.get(name).map(OsString::from)
        }

        fn has(&self, path: &Path) -> bool {
            self.files.iter().any(|file| Path::new(file) == path)
        }
    }

    fn machine<const V: usize>(variables: [(&'static str, &'static str); V], files: &[&'static str]) -> Fake {
        Fake { variables: variables.into(), files: files.to_vec() }
    }

    const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

    #[test]
    fn a_given_broker_is_shared_and_never_broken() {
        let machine = machine([("TASKHARE_TEST_URL", "amqp://there")], &[SERVER]);
        let given = Origin::Given { url: "amqp://there".into(), management: None };
        assert_eq!(Origin::shared(&machine).unwrap(), given);
        assert!(matches!(Origin::private(&machine).unwrap(), Origin::Installed(_)));
    }

    #[test]
    fn an_installed_server_is_found_where_it_may_be() {
        let cases = [
            (SERVER, "/usr/lib/rabbitmq/bin"),
            ("/opt/rabbit/sbin/rabbitmq-server", "/opt/rabbit/sbin"),
            ("/somewhere/rabbitmq-server", "/somewhere"),
        ];
        for (file, bin) in cases {
            let variables = [("RABBITMQ_HOME", "/opt/rabbit"), ("PATH", "/usr/bin:/somewhere")];
            let found = Origin::private(&machine(variables, &[file])).unwrap();
            assert_eq!(found, Origin::Installed(Install { root: None, bin: PathBuf::from(bin) }));
        }
    }

    #[test]
    fn an_unpacked_root_goes_first_and_must_hold_a_server() {
        let variables = [("TASKHARE_TEST_ROOT", "/lab/4.3")];
        let inside = "/lab/4.3/usr/lib/rabbitmq/bin/rabbitmq-server";
        let found = Origin::private(&machine(variables, &[SERVER, inside])).unwrap();
        let root = Some(PathBuf::from("/lab/4.3"));
        assert_eq!(found, Origin::Installed(Install { root, bin: PathBuf::from("/usr/lib/rabbitmq/bin") }));
        let error = Origin::private(&machine(variables, &[SERVER])).unwrap_err();
        assert!(error.to_string().contains("./dev root"), "{error}");
    }

    #[cfg(not(feature = "testcontainers"))]
    #[test]
    fn where_there_is_nothing_the_error_says_what_to_install() {
        let error = Origin::shared(&machine([], &[])).unwrap_err().to_string();
        for hint in ["apt-get install rabbitmq-server", "TASKHARE_TEST_URL", "testcontainers"] {
            assert!(error.contains(hint), "{error}");
        }
    }

    #[cfg(feature = "testcontainers")]
    #[test]
    fn docker_is_the_last_resort_unless_an_image_is_named() {
        let named = |image, tag| Origin::Docker { image: String::from(image), tag: String::from(tag) };
        let last_resort = Origin::shared(&machine([], &[])).unwrap();
        assert_eq!(last_resort, named("rabbitmq", "4-management"));
        let cases = [
            ("rabbitmq:3-management", named("rabbitmq", "3-management")),
            ("localhost:5000/rabbitmq", named("localhost:5000/rabbitmq", "latest")),
        ];
        for (image, docker) in cases {
            let machine = machine([("TASKHARE_TEST_IMAGE", image)], &[SERVER]);
            assert_eq!(Origin::shared(&machine).unwrap(), docker);
        }
    }
}
