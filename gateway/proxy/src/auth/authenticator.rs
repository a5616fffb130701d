use super::cache::TokenCache;
use super::denial::Denial;
use super::keys::KeySet;
use super::locate;
use super::remote::KeyStore;
use super::rule::{Accepted, Keys, Rule};
use super::verified::Verified;
use crate::forward::buffers::Work;
use crate::forward::view::View;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tidegate_model::{
    Authentication, Diagnostic, HeaderName, KeySource, Model, Severity, TokenLocation, TokenRule,
};

/// What the policies of one config mean.
pub(crate) struct Authenticator {
    rules: Vec<Arc<Rule>>,
    /// The headers that only verified tokens may give.
    outputs: Vec<HeaderName>,
}

/// Tokens that all verified, each with its rule and its place.
type Found<'r> = Vec<(&'r Rule, &'r TokenLocation, Arc<Accepted>)>;

impl Authenticator {
    /// Compiles the policies; `None` where there are none. Rules that did not change keep their keys and what is
    /// remembered of them. Says which keys cannot be used.
    pub(crate) fn build(
        config: &Authentication,
        previous: Option<&Authenticator>,
        store: &mut KeyStore,
    ) -> (Option<Self>, Vec<Diagnostic>) {
        let mut diagnostics = Vec::new();
        let rules = config.rules.iter().map(|rule| {
            let known = previous.and_then(|p| p.rules.iter().find(|r| r.config == *rule));
            let keys = match &rule.keys {
                KeySource::Inline(text) => inline(rule, text, &mut diagnostics),
                KeySource::Remote { location, timeout } => Keys::Remote(store.watch(location, *timeout)),
            };
            known.cloned().unwrap_or_else(|| Arc::new(Rule::new(rule, keys)))
        });
        let rules: Vec<_> = rules.collect();
        store.forget_unused();
        let outputs = config.rules.iter().flat_map(|rule| {
            rule.payload_header.iter().chain(rule.claim_headers.iter().map(|c| &c.header)).cloned()
        });
        let outputs = outputs.collect();
        ((!rules.is_empty()).then_some(Authenticator { rules, outputs }), diagnostics)
    }

    /// Takes what clients may not say off the request, verifies its tokens, and remembers in `w` who it is from. A
    /// request without a token passes, and so does a CORS preflight.
    ///
    /// As in Istio, the tokens of the first rule that accepts them count; where no rule does, each token may be of
    /// another rule. A request that is not accepted so either is refused for what the last rule found that its tokens
    /// were for.
    pub(crate) fn authenticate(&self, w: &mut Work, cache: &TokenCache) -> Result<(), Denial> {
        w.verified = None;
        for name in &self.outputs {
            locate::remove_header(w, name);
        }
        let view = View::of(w);
        if locate::is_preflight(view) {
            return Ok(());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let mut verdict = Verdict::default();
        for rule in &self.rules {
            match check(rule, view, now, cache) {
                Ok(found) => {
                    accept(w, found);
                    return Ok(());
                }
                Err(denial) => verdict.add(denial, rule.config.required),
            }
        }
        if let Some(found) = check_each(&self.rules, view, now, cache) {
            accept(w, found);
            return Ok(());
        }
        verdict.result()
    }
}

/// The tokens of a request that a rule is for: all of them must verify, or a bad one could be taken for the good one.
/// Read from the last to the first, as in Envoy.
fn check<'r>(rule: &'r Arc<Rule>, view: View<'_>, now: u64, cache: &TokenCache) -> Result<Found<'r>, Denial> {
    let mut found: Found<'r> = Vec::new();
    for (location, token) in locate::tokens(view, &rule.config.locations).into_iter().rev() {
        found.push((rule, location, rule.verify(&token, now, cache)?));
    }
    if found.is_empty() {
        return Err(Denial::Missing);
    }
    found.reverse();
    Ok(found)
}

/// All tokens of a request of several issuers, each verified by a rule that has its place; `None` where one is bad, or
/// there are none. The first is at the first kind of place: a header, the query, a cookie.
fn check_each<'r>(rules: &'r [Arc<Rule>], view: View<'_>, now: u64, cache: &TokenCache) -> Option<Found<'r>> {
    let places: Vec<Vec<_>> = rules.iter().map(|rule| locate::tokens(view, &rule.config.locations)).collect();
    let mut found: Found<'r> = Vec::new();
    let mut seen: Vec<(&TokenLocation, &[u8])> = Vec::new();
    for (location, token) in places.iter().flatten() {
        if seen.contains(&(*location, &**token)) {
            continue;
        }
        seen.push((*location, &**token));
        let mut owners = rules.iter().filter(|rule| rule.config.locations.contains(location));
        let verified = |rule: &'r Arc<Rule>| Some((rule, rule.verify(token, now, cache).ok()?));
        let (rule, accepted) = owners.find_map(verified)?;
        found.push((rule, *location, accepted));
    }
    found.sort_by_key(|(_, location, _)| match location {
        TokenLocation::Header(..) => 0,
        TokenLocation::Param(_) => 1,
        TokenLocation::Cookie(_) => 2,
    });
    (!found.is_empty()).then_some(found)
}

fn accept(w: &mut Work, found: Found<'_>) {
    for (_, location, _) in found.iter().filter(|(rule, ..)| !rule.config.forward) {
        locate::remove(w, location);
    }
    let tokens = found.into_iter().map(|(.., accepted)| accepted).collect();
    w.verified = Some(Box::new(Verified::new(tokens)));
}

/// What is said when no rule accepts a request, out of what each rule said.
#[derive(Default)]
struct Verdict {
    /// The first denial that is more than a missing token that may be missing.
    first: Option<Denial>,
    chosen: Option<Denial>,
}

impl Verdict {
    fn add(&mut self, denial: Denial, required: bool) {
        if denial != Denial::Missing || required {
            self.first.get_or_insert(denial);
        }
        self.choose(denial);
    }

    /// A denial of a token for the rule counts more than one of a token for another rule, and that more than none.
    fn choose(&mut self, denial: Denial) {
        let weak = self.chosen.is_none_or(|chosen| chosen == Denial::Missing);
        if weak || !denial.is_about_another_rule() {
            self.chosen = Some(denial);
        }
    }

    fn result(mut self) -> Result<(), Denial> {
        let Some(first) = self.first else { return Ok(()) };
        self.choose(first);
        Err(self.chosen.unwrap_or(first))
    }
}

/// What to say of the inline keys of a model that cannot be used.
pub fn unusable_keys(model: &Model) -> Vec<Diagnostic> {
    let mut diagnostics = Vec::new();
    for rule in &model.authentication.rules {
        if let KeySource::Inline(text) = &rule.keys {
            inline(rule, text, &mut diagnostics);
        }
    }
    diagnostics
}

fn inline(rule: &TokenRule, text: &Arc<str>, diagnostics: &mut Vec<Diagnostic>) -> Keys {
    let (keys, unusable) =
        KeySet::parse(text.as_bytes()).unwrap_or_else(|why| (KeySet::none(), vec![why.to_string()]));
    if !unusable.is_empty() {
        diagnostics.push(Diagnostic {
            severity: Severity::Warning,
            origin: rule.origin.clone(),
            object: Some(rule.object.clone()),
            field: format!("spec.jwtRules[{}].jwks", rule.index),
            text: format!("has keys that no token is verified with: {}", unusable.join("; ")),
            advice: "use RSA keys of 2048 bits, P-256, P-384, P-521 or Ed25519".into(),
            code: "unusable-keys",
        });
    }
    Keys::Fixed(Arc::new(keys))
}
