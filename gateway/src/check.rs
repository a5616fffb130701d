//! `--check`: everything that is wrong with a config, without serving it.

use crate::args::{Output, Setup};
use crate::report;
use anyhow::Context;
use std::io::{self, BufWriter, Write};
use tidegate_api::Objects;
use tidegate_engine::Table;
use tidegate_model::{Diagnostic, Severity};
use tidegate_source::Folder;
use tidegate_translate::{Admission, Env, translate, translate_mesh};

/// A config that was read once.
pub(crate) struct Config {
    /// The objects that are well-formed and valid.
    pub(crate) objects: Objects,
    /// What was said about the others.
    pub(crate) diagnostics: Vec<Diagnostic>,
}

impl Config {
    /// Reads files and folders. A path that cannot be read is said in the diagnostics.
    pub(crate) fn read(setup: &Setup) -> Config {
        let loaded = Folder::open(setup.config.clone()).load();
        let admitted = Admission::new().admit(loaded.objects, &setup.env);
        let mut diagnostics = loaded.diagnostics;
        diagnostics.extend(admitted.diagnostics);
        Config { objects: admitted.objects, diagnostics }
    }
}

/// Prints all diagnostics on stdout and their numbers on stderr. Whether there was no error.
///
/// # Errors
/// When nothing can be printed.
pub(crate) fn check(setup: &Setup) -> anyhow::Result<bool> {
    let config = Config::read(setup);
    let objects = config.objects.len();
    let diagnostics = diagnose(config, &setup.env);
    print(&diagnostics, setup.output, io::stdout().lock()).context("cannot print")?;
    writeln!(io::stderr(), "{objects} objects: {}", report::counts(&diagnostics))?;
    Ok(diagnostics.iter().all(|d| d.severity < Severity::Error))
}

/// What reading, translating and compiling say.
fn diagnose(config: Config, env: &Env) -> Vec<Diagnostic> {
    let mut diagnostics = config.diagnostics;
    let translation = translate(&config.objects, env);
    diagnostics.extend(translation.diagnostics);
    // rules for sidecars are no use to this gateway, but a mistake in them is one
    for model in [translation.model, translate_mesh(&config.objects, env).model] {
        let refused = Table::compile(&model).refused;
        diagnostics.extend(report::refusals(&model, refused));
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
