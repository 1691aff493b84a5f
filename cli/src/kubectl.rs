//! Calls of kubectl, in the cluster and namespace that the user named.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context, bail};
use clap::Args;

/// Where, as kubectl itself takes it; what is not given is kubectl's to decide.
#[derive(Clone, Default, PartialEq, Eq, Debug, Args)]
pub struct Where {
    /// Namespace of the pipeline.
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
    /// Context of the kubeconfig file.
    #[arg(long, global = true)]
    pub context: Option<String>,
    /// The kubeconfig file.
    #[arg(long, global = true)]
    pub kubeconfig: Option<String>,
}

impl Where {
    /// kubectl's arguments that say so.
    #[must_use]
    pub fn arguments(&self) -> Vec<OsString> {
        let named = [
            ("--namespace", &self.namespace),
            ("--context", &self.context),
            ("--kubeconfig", &self.kubeconfig),
        ];
        named
            .into_iter()
            .filter_map(|(name, value)| Some([OsString::from(name), OsString::from(value.as_ref()?)]))
            .flatten()
            .collect()
    }

    /// A call of kubectl there.
    #[must_use]
    pub fn kubectl(&self) -> Command {
        let mut command = Command::new("kubectl");
        command.args(self.arguments());
        command
    }

    /// The lines that kubectl prints.
    ///
    /// # Errors
    /// When there is no kubectl, or it fails; its own words are in the message.
    pub fn lines<const N: usize>(&self, arguments: [&str; N]) -> anyhow::Result<Vec<String>> {
        let output =
            self.kubectl().args(arguments).output().context("failed to run kubectl: is it installed?")?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_is_kubectls_to_decide() {
        assert!(Where::default().arguments().is_empty());
        let there = Where { namespace: Some("shop".to_owned()), ..Where::default() };
        assert_eq!(there.arguments(), ["--namespace", "shop"]);
    }
}
