//! One TLS provider for the whole process.

/// Installs ring as the provider of every rustls connection of this process. Call it first in `main`: several
/// dependencies bring a provider of their own, and rustls refuses to choose between them.
pub fn install_provider() {
    // An error means that one is installed already, which is what we want.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
