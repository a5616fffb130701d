//! Certificates with their keys, and authorities, read from the model: for servers and for upstreams.

use super::certificate::{self, InvalidCertificate};
use super::client_certificate::{self, InvalidAuthorities};
use ahash::HashMap;
use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use tidegate_model::{Authorities, Model, Secret, SecretKey};

/// Certificates with their keys.
type Certificates = HashMap<SecretKey, Loaded<Secret, Arc<CertifiedKey>, InvalidCertificate>>;

/// Everything of a model that TLS needs. What is broken stays at its last good version.
#[derive(Default)]
pub(crate) struct Credentials {
    pub(super) certificates: Certificates,
    pub(super) authorities:
        HashMap<SecretKey, Loaded<Authorities, client_certificate::Loaded, InvalidAuthorities>>,
    /// When certificates end, with the secrets from which that was read.
    ends: HashMap<SecretKey, (Arc<Secret>, i64)>,
    /// Those that the system trusts, read when somebody first needs them.
    system: OnceLock<Arc<RootCertStore>>,
}

impl Credentials {
    /// What did not change is shared with `previous`.
    pub(crate) fn load(model: &Model, previous: &Credentials) -> Credentials {
        let system = previous.system.get().filter(|roots| !roots.is_empty()).cloned();
        let certificates = load_all(&model.secrets, &previous.certificates, certificate::load);
        Credentials {
            ends: ends(&certificates, &previous.ends),
            certificates,
            authorities: load_all(&model.authorities, &previous.authorities, client_certificate::load),
            system: system.map_or_else(OnceLock::new, OnceLock::from),
        }
    }

    /// When the certificates end that are in use, in seconds since 1970: each with its chain.
    pub(crate) fn not_after(&self) -> Arc<[(SecretKey, i64)]> {
        let mut all: Vec<_> = self.ends.iter().map(|(key, (_, end))| (key.clone(), *end)).collect();
        all.sort();
        all.into()
    }

    /// What the system trusts, in place of what it does.
    #[cfg(test)]
    pub(super) fn with_system(self, roots: RootCertStore) -> Credentials {
        Credentials { system: OnceLock::from(Arc::new(roots)), ..self }
    }

    /// The authorities that the system trusts. They are read once; only where there were none they are looked for
    /// again with the next config.
    pub(super) fn system(&self) -> &Arc<RootCertStore> {
        self.system.get_or_init(|| Arc::new(system_authorities()))
    }
}

/// Reads the authorities that the system trusts: where `SSL_CERT_FILE` or `SSL_CERT_DIR` says, else where systems have
/// them. What does not parse is left out.
pub(crate) fn system_authorities() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    match rustls_native_certs::load_native_certs() {
        Ok(certificates) => _ = roots.add_parsable_certificates(certificates),
        Err(error) => tracing::warn!(%error, "the system's authorities cannot be read"),
    }
    roots
}

fn ends(
    certificates: &Certificates,
    previous: &HashMap<SecretKey, (Arc<Secret>, i64)>,
) -> HashMap<SecretKey, (Arc<Secret>, i64)> {
    let end = |(key, loaded): (&SecretKey, &Loaded<Secret, Arc<CertifiedKey>, InvalidCertificate>)| {
        let (secret, certified) = loaded.good.as_ref()?;
        let known = previous.get(key).filter(|(of, _)| Arc::ptr_eq(of, secret)).map(|(_, end)| *end);
        let end = known.or_else(|| certificate::not_after(certified))?;
        Some((key.clone(), (secret.clone(), end)))
    };
    certificates.iter().filter_map(end).collect()
}

/// Something of the model that was read.
pub(super) struct Loaded<M, T, E> {
    /// As the model has it now.
    pub(super) tried: Arc<M>,
    /// The last version that could be used, and what came of it.
    pub(super) good: Option<(Arc<M>, T)>,
    /// What is wrong with the version that was tried.
    pub(super) error: Option<E>,
}

impl<M, T: Clone, E: Clone> Clone for Loaded<M, T, E> {
    fn clone(&self) -> Self {
        Loaded { tried: self.tried.clone(), good: self.good.clone(), error: self.error.clone() }
    }
}

/// Everything of a kind, read; what did not change is shared, and what is broken stays at its last good version.
fn load_all<M: PartialEq, T: Clone, E: Clone>(
    sources: &BTreeMap<SecretKey, Arc<M>>,
    previous: &HashMap<SecretKey, Loaded<M, T, E>>,
    load: impl Fn(&M) -> Result<T, E>,
) -> HashMap<SecretKey, Loaded<M, T, E>> {
    let load = |key: &SecretKey, source: &Arc<M>| {
        let old = previous.get(key);
        if let Some(old) = old.filter(|old| Arc::ptr_eq(&old.tried, source) || old.tried == *source) {
            return old.clone();
        }
        match load(source) {
            Ok(loaded) => Loaded { tried: source.clone(), good: Some((source.clone(), loaded)), error: None },
            Err(e) => {
                Loaded { tried: source.clone(), good: old.and_then(|old| old.good.clone()), error: Some(e) }
            }
        }
    };
    sources.iter().map(|(key, source)| (key.clone(), load(key, source))).collect()
}
