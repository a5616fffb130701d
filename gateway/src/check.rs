//! `--check`: everything that is wrong with a config, without serving it.

use crate::args::{Output, Setup};
use crate::{policies, report};
use anyhow::Context;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use tidegate_api::Objects;
use tidegate_engine::Table;
use tidegate_model::{Diagnostic, Severity};
use tidegate_source::{Folder, NamedFiles};
use tidegate_translate::{Admission, Env, files, translate, translate_mesh};

/// A config that was read once.
pub(crate) struct Config {
    /// The objects that are well-formed and valid.
    pub(crate) objects: Objects,
    /// What was said about the others.
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// The gateway, with the files that the objects name.
    pub(crate) env: Env,
}

impl Config {
    /// Reads files and folders. A path that cannot be read is said in the diagnostics.
    pub(crate) fn read(setup: &Setup) -> Config {
        let loaded = Folder::open(setup.config.clone()).load();
        let admitted = Admission::new().admit(loaded.objects, &setup.env);
        let policies::Unknown { broken: broken_policies, rules: broken_rules, .. } =
            policies::unknown(&loaded.refused, &admitted, &loaded.diagnostics, &setup.env);
        let mut diagnostics = loaded.diagnostics;
        diagnostics.extend(admitted.diagnostics);
        let files = NamedFiles::default().load(files(&admitted.objects));
        let env = Env { files, broken_policies, broken_rules, ..setup.env.clone() };
        Config { objects: admitted.objects, diagnostics, env }
    }
}

/// Prints all diagnostics on stdout and their numbers on stderr. Whether there was no error.
///
/// # Errors
/// When nothing can be printed.
pub(crate) fn check(setup: &Setup) -> anyhow::Result<bool> {
    let config = Config::read(setup);
    let objects = report::objects_in(&config.objects);
    let diagnostics = diagnose(config, &setup.config);
    print(&diagnostics, setup.output, io::stdout().lock()).context("cannot print")?;
    writeln!(io::stderr(), "{objects}: {}", report::counts(&diagnostics))?;
    Ok(diagnostics.iter().all(|d| d.severity < Severity::Error))
}

/// What reading, translating and compiling say.
fn diagnose(config: Config, paths: &[PathBuf]) -> Vec<Diagnostic> {
    let mut diagnostics = config.diagnostics;
    let translation = translate(&config.objects, &config.env);
    let nothing = report::nothing_served(&translation, &diagnostics, &config.env, paths);
    diagnostics.extend(nothing);
    diagnostics.extend(translation.diagnostics);
    // rules for sidecars are no use to this gateway, but a mistake in them is one
    for model in [translation.model, translate_mesh(&config.objects, &config.env).model] {
        let refused = Table::compile(&model).refused;
        diagnostics.extend(tidegate_proxy::refused(&model, refused));
        diagnostics.extend(tidegate_proxy::unusable_keys(&model));
    }
    report::sort(&mut diagnostics);
    diagnostics
}

fn print(diagnostics: &[Diagnostic], output: Output, to: impl Write) -> io::Result<()> {
    let mut to = BufWriter::new(to);
    for diagnostic in diagnostics {
        report::print(diagnostic, output, &mut to)?;
    }
    to.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Invocation, parse};

    const GATEWAY: &str = "\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]
";

    /// `SEVERITY FILE:LINE CODE` of what is said about files of these names and texts.
    fn said(files: &[(&str, &str)]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let path = folder.path().to_str().unwrap();
        let Invocation::Check(setup) = parse(["x", "--check", "--config", path]).unwrap() else {
            panic!("not a check")
        };
        let file = |d: &Diagnostic| d.origin.file.rsplit('/').next().unwrap_or_default().to_owned();
        let diagnostics = diagnose(Config::read(&setup), &setup.config);
        diagnostics
            .iter()
            .map(|d| format!("{} {}:{} {}", d.severity, file(d), d.origin.line, d.code))
            .collect()
    }

    #[test]
    fn a_good_config_has_no_errors() {
        assert!(said(&[("a.yaml", GATEWAY)]).iter().all(|line| !line.starts_with("error")));
    }

    #[test]
    fn a_config_without_a_gateway_for_it_is_no_silence() {
        let other = GATEWAY.replace("ingressgateway", "egressgateway");
        for files in [&[][..], &[("a.YAML", GATEWAY)], &[("a.yaml", &other)]] {
            let found = said(files);
            assert!(
                found.iter().any(|line| line.starts_with("warning") && line.ends_with(" nothing-served"))
            );
            assert!(found.iter().all(|line| !line.starts_with("error")), "{found:?}");
        }
        assert!(said(&[("a.YAML", GATEWAY)]).contains(&"note a.YAML:0 file-skipped".to_owned()));
    }

    #[test]
    fn errors_of_every_kind_are_found_and_sorted_by_place() {
        let broken = GATEWAY.replace("number: 80", "number: eighty");
        let unknown = GATEWAY.replace("edge", "typo").replace("hosts: ['*']", "hosts: ['*'], host: a");
        let found = said(&[("c.yaml", "a: [b"), ("a.yaml", &broken), ("b.yaml", &unknown)]);
        let expected =
            ["error a.yaml:6 wrong-type", "error b.yaml:6 unknown-field", "error c.yaml:2 invalid-yaml"];
        assert_eq!(found, expected);
    }
}
