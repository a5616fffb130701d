//! What the policies of the gateway say about a request or a connection.

use super::answer::{Answer, PolicyRuleAnswer, Rule};
use super::request::Request;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use tidegate_engine::{Authorizer, Ends, Forbidden, RequestView, Subject};
use tidegate_model::{ListenerKey, ObjectRef, Origin, RuleRef};

/// The rules that were asked, and the answer where they do not let it through.
pub(super) struct Judged {
    pub(super) policies: Vec<PolicyRuleAnswer>,
    pub(super) denied: Option<Answer>,
}

/// Judges `request`, or the connection that it would come on. `client` is whose address it has.
pub(super) fn judge(
    authorizer: &Authorizer,
    listener: ListenerKey,
    request: &Request,
    is_request: bool,
    client: Option<IpAddr>,
) -> Judged {
    let client = client.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let ends = Ends {
        source: client,
        remote: client,
        destination: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), listener.port),
        sni: request.sni().unwrap_or_default(),
        names: &[],
    };
    let view: &dyn RequestView = request;
    let subject = Subject { ends, request: Some(view).filter(|_| is_request) };
    let policies = authorizer.explain(&subject).into_iter().map(|considered| PolicyRuleAnswer {
        rule: rule(&considered.rule.policy.object, considered.rule.rule, &considered.rule.policy.origin),
        action: considered.rule.policy.action.as_str(),
        dry_run: considered.rule.policy.dry_run,
        lost_by: considered.lost_by,
    });
    let decided = authorizer.check(&subject).and_then(|_| authorizer.enforce(&subject));
    let denied = decided.err().map(|why| Answer {
        outcome: "deny",
        status: is_request.then_some(403),
        reason: Some(why.to_string()),
        rule: match why {
            Forbidden::By(by) => Some(rule(&by.policy.object, by.rule, &by.policy.origin)),
            Forbidden::NotAllowed => None,
        },
        ..Answer::default()
    });
    Judged { policies: policies.collect(), denied }
}

fn rule(object: &ObjectRef, index: usize, origin: &Origin) -> Rule {
    let rule = RuleRef { object: object.clone(), index, match_index: None, root: None };
    Rule::of_policy(&rule, origin)
}
