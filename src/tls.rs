//! [`Tls`]: how this client knows that it speaks with its broker, and shows who it is itself.

use std::fmt;
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::RootCertStore;
#[cfg(feature = "management")]
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use crate::error::Error;
use crate::error::Result;

/// TLS settings of a [`Broker`](crate::Broker) with `amqps://` in its URL, or a management client with `https://`.
///
/// Without any the broker's certificate must be signed by an authority that this system trusts, and name the host of the
/// URL. There is no way to leave that out. TLS 1.3 and 1.2, by rustls.
///
/// ```no_run
/// # async fn example() -> taskhare::Result<()> {
/// use taskhare::Broker;
/// use taskhare::Tls;
///
/// let read = |path| std::fs::read(path).expect("it is there");
/// let tls = Tls::new()
///     .root_certificates(&read("ca.pem"))?
///     .client_certificate(&read("client.pem"), &read("client.key"))?;
/// let broker = Broker::builder().url("amqps://rabbit.example").tls(tls).connect().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
#[must_use = "it is given to `BrokerBuilder::tls`"]
pub struct Tls {
    /// None: those of this system.
    roots: Vec<CertificateDer<'static>>,
    identity: Option<Arc<Identity>>,
    server_name: Option<String>,
    logs_in: bool,
}

/// Who we are.
pub(crate) struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    /// The key as it was given.
    #[cfg(feature = "management")]
    pub(crate) pem: Vec<u8>,
}

/// Settings for a client with a TLS of its own, as it takes them. They can be used.
#[cfg(feature = "management")]
pub(crate) struct Plain {
    pub(crate) roots: Vec<CertificateDer<'static>>,
    pub(crate) identity: Option<Arc<Identity>>,
    pub(crate) provider: Arc<CryptoProvider>,
}

/// Settings that can be used.
#[derive(Clone)]
pub(crate) struct Secured {
    pub(crate) connector: TlsConnector,
    /// What the broker's certificate must name; `None`: the host of the URL.
    pub(crate) server_name: Option<String>,
    /// The certificate is the login.
    pub(crate) logs_in: bool,
}

impl Tls {
    /// Trusts what this system trusts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts these authorities, and no others. PEM, one or several; called again, more.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] if there is no certificate in it.
    pub fn root_certificates(mut self, pem: &[u8]) -> Result<Self> {
        self.roots.extend(certificates(pem)?);
        Ok(self)
    }

    /// Shows this certificate to a broker that asks for one. PEM: the certificate, first, with those between it and the
    /// authority; and its private key.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] if there is no certificate or no key in them.
    pub fn client_certificate(mut self, chain: &[u8], key: &[u8]) -> Result<Self> {
        let chain = certificates(chain)?;
        // The error might repeat what it could not read.
        let read =
            PrivateKeyDer::from_pem_slice(key).map_err(|_| invalid("there is no private key in the PEM"))?;
        self.identity = Some(Arc::new(Identity {
            chain,
            key: read,
            #[cfg(feature = "management")]
            pem: key.to_vec(),
        }));
        Ok(self)
    }

    /// Logs in with the client certificate instead of user and password (`EXTERNAL`). The broker needs its plugin
    /// `rabbitmq_auth_mechanism_ssl`. The management API knows no such login: there it does nothing.
    pub fn login_by_certificate(mut self) -> Self {
        self.logs_in = true;
        self
    }

    /// What the broker's certificate must name, if that is not the host of the URL. Not for the management API.
    pub fn server_name(mut self, name: &str) -> Self {
        self.server_name = Some(name.to_owned());
        self
    }

    /// The same, ready for use.
    pub(crate) fn secured(&self) -> Result<Secured> {
        if self.logs_in && self.identity.is_none() {
            return Err(invalid("there is no client certificate to log in with"));
        }
        if let Some(name) = &self.server_name
            && ServerName::try_from(name.as_str()).is_err()
        {
            return Err(invalid(format!("the server name {name:?} is neither a host name nor an address")));
        }
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(invalid)?
            .with_root_certificates(self.store()?);
        let config = match self.identity.as_deref() {
            None => config.with_no_client_auth(),
            Some(Identity { chain, key, .. }) => {
                config.with_client_auth_cert(chain.clone(), key.clone_key()).map_err(invalid)?
            }
        };
        Ok(Secured {
            connector: TlsConnector::from(Arc::new(config)),
            server_name: self.server_name.clone(),
            logs_in: self.logs_in,
        })
    }

    /// The same, for a client that verifies the host of its URL and nothing else.
    #[cfg(feature = "management")]
    pub(crate) fn plain(&self) -> Result<Plain> {
        if self.server_name.is_some() {
            return Err(invalid(
                "the management API is known by the host of its URL, not by a `server_name`",
            ));
        }
        // It would panic on what cannot be used.
        Self { logs_in: false, ..self.clone() }.secured()?;
        let roots = if self.roots.is_empty() { native() } else { self.roots.clone() };
        Ok(Plain { roots, identity: self.identity.clone(), provider: Arc::new(ring::default_provider()) })
    }

    fn store(&self) -> Result<RootCertStore> {
        let mut store = RootCertStore::empty();
        if self.roots.is_empty() {
            store.add_parsable_certificates(native());
            if store.is_empty() {
                return Err(invalid(
                    "this system has no root certificates; name yours by `root_certificates`",
                ));
            }
        }
        for root in &self.roots {
            store.add(root.clone()).map_err(|error| invalid(format!("a root certificate: {error}")))?;
        }
        Ok(store)
    }
}

/// Those that this system trusts.
fn native() -> Vec<CertificateDer<'static>> {
    rustls_native_certs::load_native_certs().certs
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|_| invalid("a certificate is not PEM"))?;
    if found.is_empty() {
        return Err(invalid("there is no certificate in the PEM"));
    }
    Ok(found)
}

pub(crate) fn invalid(reason: impl fmt::Display) -> Error {
    Error::InvalidSetting { setting: "tls", reason: reason.to_string() }
}

/// Without the key.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("roots", &self.roots.len())
            .field("has_client_certificate", &self.identity.is_some())
            .field("server_name", &self.server_name)
            .field("logs_in", &self.logs_in)
            .finish()
    }
}

impl fmt::Debug for Secured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secured").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_says_why_and_keeps_the_key() {
        let key = "-----BEGIN PRIVATE KEY-----\nsecret++\n-----END PRIVATE KEY-----\n";
        let errors = [
            Tls::new().root_certificates(b"").map(|_| ()),
            Tls::new().root_certificates(key.as_bytes()).map(|_| ()),
            Tls::new()
                .root_certificates(b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n")
                .map(|_| ()),
            Tls::new().client_certificate(b"", key.as_bytes()).map(|_| ()),
            Tls::new().login_by_certificate().secured().map(|_| ()),
            Tls::new().server_name("not a name").secured().map(|_| ()),
        ];
        for (found, expected) in errors.into_iter().zip([
            "no certificate in the PEM",
            "no certificate in the PEM",
            "not PEM",
            "no certificate in the PEM",
            "no client certificate",
            "\"not a name\"",
        ]) {
            let error = found.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
