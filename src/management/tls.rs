//! [`Tls`] in the words of the HTTP client.

use std::sync::Arc;

use ureq::tls::Certificate;
use ureq::tls::ClientCert;
use ureq::tls::PrivateKey;
use ureq::tls::RootCerts;
use ureq::tls::TlsConfig;
use ureq::tls::TlsProvider;

use crate::error::Result;
use crate::tls::Plain;
use crate::tls::Tls;
use crate::tls::invalid;

/// Settings that verify as everywhere else.
pub(super) fn config(tls: &Tls) -> Result<TlsConfig> {
    let Plain { roots, identity, provider } = tls.plain()?;
    let certificate = |der: &[u8]| Certificate::from_der(der).to_owned();
    let roots = roots.iter().map(|root| certificate(root)).collect();
    let identity = identity.map(|identity| {
        let chain: Vec<_> = identity.chain.iter().map(|one| certificate(one)).collect();
        // The error might repeat what it could not read.
        let key =
            PrivateKey::from_pem(&identity.pem).map_err(|_| invalid("the private key cannot be used"))?;
        Ok(ClientCert::new_with_certs(&chain, key))
    });
    Ok(TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(provider)
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .client_cert(identity.transpose()?)
        .build())
}
