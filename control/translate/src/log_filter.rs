//! Conditions on requests that are logged, in the part of CEL that access logs use: attributes of Envoy compared with
//! numbers and texts, joined by `&&`, `||`, `!` and parentheses.

use tidegate_model::{
    Anchoring, Comparison, Field, HeaderName, LogCondition, LogFilter, Operator, Pattern, TextTest,
};

/// The longest expression, in bytes.
const LONGEST: usize = 4096;
/// How deep parentheses and negations may be nested.
const DEEPEST: usize = 32;

/// Reads an expression.
///
/// # Errors
/// With what of it is not understood.
pub(crate) fn parse(source: &str) -> Result<LogFilter, String> {
    if source.len() > LONGEST {
        return Err(format!("is longer than {LONGEST} bytes"));
    }
    let tokens = tokens(source)?;
    let mut parser = Parser { tokens: &tokens, depth: 0 };
    let condition = parser.any()?;
    match parser.tokens.first() {
        None => Ok(LogFilter { source: source.into(), condition }),
        Some(token) => Err(format!("{} is not expected", shown(Some(token)))),
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    /// A name with the names behind its dots.
    Name(String),
    Text(String),
    Number(i64),
    /// An operator or a bracket.
    Sign(&'static str),
}

const SIGNS: &[&str] = &["&&", "||", "==", "!=", "<=", ">=", "<", ">", "!", "(", ")", "[", "]", ",", "."];

fn tokens(source: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = source.trim_start();
    while let Some(first) = rest.chars().next() {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let length = if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            tokens.push(Token::Sign(sign));
            sign.len()
        } else if matches!(first, '"' | '\'') {
            let (text, length) = text(rest, first)?;
            tokens.push(Token::Text(text));
            length
        } else if first.is_ascii_digit() || first == '-' {
            let end = rest[1..].find(|c: char| !c.is_ascii_digit()).map_or(rest.len(), |n| n + 1);
            tokens.push(Token::Number(
                rest[..end].parse().map_err(|_| format!("{:?} is no number", &rest[..end]))?,
            ));
            end
        } else if is_name(first) {
            let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            tokens.push(Token::Name(rest[..end].to_owned()));
            end
        } else {
            return Err(format!("{first:?} is not expected"));
        };
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

/// A text in quotes, and how many bytes it takes with them.
fn text(source: &str, quote: char) -> Result<(String, usize), String> {
    let mut text = String::new();
    let mut chars = source.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some((_, c @ ('\\' | '"' | '\'' | '`' | '?'))) => text.push(c),
                Some((_, 'n')) => text.push('\n'),
                Some((_, 't')) => text.push('\t'),
                _ => return Err("has an escape in a text that is not understood".to_owned()),
            },
            c if c == quote => return Ok((text, at + 1)),
            c => text.push(c),
        }
    }
    Err("has a text without end".to_owned())
}

/// What an attribute stands for.
enum Attribute {
    Number(Operator),
    Text(Operator),
    /// True where there is such a value.
    Flag(Operator),
}

struct Parser<'a> {
    tokens: &'a [Token],
    depth: usize,
}

impl<'a> Parser<'a> {
    fn any(&mut self) -> Result<LogCondition, String> {
        self.deeper(|parser| parser.joined("||", Parser::all, LogCondition::Any))
    }

    fn all(&mut self) -> Result<LogCondition, String> {
        self.joined("&&", Parser::one, LogCondition::All)
    }

    fn joined(
        &mut self,
        sign: &'static str,
        part: impl Fn(&mut Self) -> Result<LogCondition, String>,
        join: impl FnOnce(Vec<LogCondition>) -> LogCondition,
    ) -> Result<LogCondition, String> {
        let first = part(self)?;
        let mut parts = vec![first];
        while self.take(sign) {
            parts.push(part(self)?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { join(parts) })
    }

    fn one(&mut self) -> Result<LogCondition, String> {
        if self.take("!") {
            let inner = self.deeper(Parser::one)?;
            return Ok(LogCondition::Not(Box::new(inner)));
        }
        if self.take("(") {
            let inner = self.any()?;
            return self.expect(")").map(|()| inner);
        }
        let name = self.name()?;
        if name == "has" && self.take("(") {
            let name = self.name()?;
            let (Attribute::Number(operator) | Attribute::Text(operator) | Attribute::Flag(operator)) =
                self.attribute(name)?.0;
            return self.expect(")").map(|()| LogCondition::Present(operator));
        }
        match self.attribute(name)? {
            (Attribute::Flag(operator), _) => Ok(LogCondition::Present(operator)),
            (Attribute::Number(operator), None) => self.number(operator),
            (Attribute::Text(operator), None) => self.text(operator),
            (Attribute::Text(operator), Some(method)) => self.method(operator, method),
            (Attribute::Number(_), Some(method)) => Err(format!("{method:?} is nothing that a number has")),
        }
    }

    fn number(&mut self, operator: Operator) -> Result<LogCondition, String> {
        if self.take_name("in") {
            let numbers = self.list(|token| match token {
                Token::Number(n) => Some(LogCondition::Number(operator.clone(), Comparison::Equal, *n)),
                _ => None,
            })?;
            return Ok(LogCondition::Any(numbers));
        }
        let comparison = match self.next() {
            Some(Token::Sign("==")) => Comparison::Equal,
            Some(Token::Sign("!=")) => Comparison::NotEqual,
            Some(Token::Sign("<")) => Comparison::Less,
            Some(Token::Sign("<=")) => Comparison::AtMost,
            Some(Token::Sign(">")) => Comparison::Greater,
            Some(Token::Sign(">=")) => Comparison::AtLeast,
            other => return Err(format!("{} is not expected behind a number", shown(other))),
        };
        match self.next() {
            Some(Token::Number(n)) => Ok(LogCondition::Number(operator, comparison, *n)),
            other => Err(format!("{} is no number to compare with", shown(other))),
        }
    }

    fn text(&mut self, operator: Operator) -> Result<LogCondition, String> {
        let equals = |text: &str| LogCondition::Text(operator.clone(), TextTest::Equals(text.into()));
        if self.take_name("in") {
            let texts = self.list(|token| match token {
                Token::Text(text) => Some(equals(text)),
                _ => None,
            })?;
            return Ok(LogCondition::Any(texts));
        }
        let differs = match self.next() {
            Some(Token::Sign("==")) => false,
            Some(Token::Sign("!=")) => true,
            other => return Err(format!("{} is not expected behind a text", shown(other))),
        };
        match self.next() {
            Some(Token::Text(text)) if differs => Ok(LogCondition::Not(Box::new(equals(text)))),
            Some(Token::Text(text)) => Ok(equals(text)),
            other => Err(format!("{} is no text to compare with", shown(other))),
        }
    }

    fn method(&mut self, operator: Operator, method: &str) -> Result<LogCondition, String> {
        self.expect("(")?;
        let text = match self.next() {
            Some(Token::Text(text)) => text.as_str().into(),
            other => return Err(format!("{} is no text", shown(other))),
        };
        self.expect(")")?;
        let test = match method {
            "contains" => TextTest::Contains(text),
            "startsWith" => TextTest::StartsWith(text),
            "endsWith" => TextTest::EndsWith(text),
            "matches" => {
                Pattern::compile(&text, Anchoring::Anywhere).map_err(|e| e.to_string())?;
                TextTest::Matches(text)
            }
            other => return Err(format!("{other:?} is not known of texts")),
        };
        Ok(LogCondition::Text(operator, test))
    }

    /// An attribute that begins with this name, and the method that is called of it.
    fn attribute(&mut self, first: &'a str) -> Result<(Attribute, Option<&'a str>), String> {
        self.expect(".")?;
        let second = self.name()?;
        let attribute = match (first, second) {
            ("request" | "response", "headers" | "trailers") => {
                let (open, close) = (self.take("["), "]");
                let header = match self.next().filter(|_| open) {
                    Some(Token::Text(name)) => HeaderName::new(name),
                    other => return Err(format!("{} names no header", shown(other))),
                };
                self.expect(close)?;
                Attribute::Text(match (first, second) {
                    ("request", "headers") => Operator::Request(header, None),
                    ("response", "headers") => Operator::Response(header, None),
                    ("response", _) => Operator::Trailer(header, None),
                    _ => return Err("trailers of requests are not kept".to_owned()),
                })
            }
            _ => attribute(first, second).ok_or_else(|| format!("{first}.{second} is not known here"))?,
        };
        let method = if self.take(".") { Some(self.name()?) } else { None };
        Ok((attribute, method))
    }

    fn list(&mut self, item: impl Fn(&Token) -> Option<LogCondition>) -> Result<Vec<LogCondition>, String> {
        self.expect("[")?;
        let mut items = Vec::new();
        while !self.take("]") {
            let token = self.next();
            items.push(token.and_then(&item).ok_or_else(|| format!("{} is not of its kind", shown(token)))?);
            if !self.take(",") {
                self.expect("]")?;
                break;
            }
        }
        Ok(items)
    }

    fn deeper<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<T, String> {
        if self.depth == DEEPEST {
            return Err("is nested too deeply".to_owned());
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    fn next(&mut self) -> Option<&'a Token> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(first)
    }

    fn take(&mut self, sign: &'static str) -> bool {
        let found = self.tokens.first() == Some(&Token::Sign(sign));
        if found {
            self.tokens = &self.tokens[1..];
        }
        found
    }

    fn take_name(&mut self, name: &str) -> bool {
        let found = matches!(self.tokens.first(), Some(Token::Name(n)) if n == name);
        if found {
            self.tokens = &self.tokens[1..];
        }
        found
    }

    fn expect(&mut self, sign: &'static str) -> Result<(), String> {
        if self.take(sign) {
            return Ok(());
        }
        Err(format!("{sign:?} is expected, not {}", shown(self.tokens.first())))
    }

    fn name(&mut self) -> Result<&'a str, String> {
        match self.next() {
            Some(Token::Name(name)) => Ok(name),
            other => Err(format!("the name of an attribute is expected, not {}", shown(other))),
        }
    }
}

fn shown(token: Option<&Token>) -> String {
    match token {
        None => "its end".to_owned(),
        Some(Token::Name(text)) => format!("{text:?}"),
        Some(Token::Text(text)) => format!("the text {text:?}"),
        Some(Token::Number(n)) => n.to_string(),
        Some(Token::Sign(sign)) => format!("{sign:?}"),
    }
}

/// Envoy's attributes that have an operator here.
fn attribute(first: &str, second: &str) -> Option<Attribute> {
    let header = |name| Attribute::Text(Operator::Request(HeaderName::new(name), None));
    let text = |field| Attribute::Text(Operator::Field(field));
    let number = |field| Attribute::Number(Operator::Field(field));
    Some(match (first, second) {
        ("request", "path") => header(":path"),
        ("request", "url_path") => {
            Attribute::Text(Operator::RequestWithoutQuery(HeaderName::new(":path"), None))
        }
        ("request", "host") => header(":authority"),
        ("request", "method") => header(":method"),
        ("request", "scheme") => header(":scheme"),
        ("request", "useragent") => header("user-agent"),
        ("request", "referer") => header("referer"),
        ("request", "id") => header("x-request-id"),
        ("request", "protocol") => text(Field::Protocol),
        ("request", "size") => number(Field::BytesReceived),
        ("response", "code") => number(Field::ResponseCode),
        ("response", "code_details") => text(Field::ResponseCodeDetails),
        ("response", "grpc_status") => number(Field::GrpcStatusNumber),
        ("response", "size") => number(Field::BytesSent),
        ("connection", "mtls") => Attribute::Flag(Operator::Field(Field::DownstreamPeerFingerprint)),
        ("connection", "id") => number(Field::ConnectionId),
        ("connection", "requested_server_name") => text(Field::RequestedServerName),
        ("connection", "tls_version") => text(Field::DownstreamTlsVersion),
        ("connection", "subject_peer_certificate") => text(Field::DownstreamPeerSubject),
        ("connection", "uri_san_peer_certificate") => text(Field::DownstreamPeerUriSan),
        ("connection", "dns_san_peer_certificate") => text(Field::DownstreamPeerDnsSan),
        ("source", "address") => text(Field::DownstreamRemoteAddress),
        ("source", "port") => number(Field::DownstreamRemotePort),
        ("destination", "address") => text(Field::DownstreamLocalAddress),
        ("destination", "port") => number(Field::DownstreamLocalPort),
        ("upstream", "address") => text(Field::UpstreamHost),
        ("upstream", "port") => number(Field::UpstreamRemotePort),
        ("upstream", "local_address") => text(Field::UpstreamLocalAddress),
        ("upstream", "request_attempt_count") => number(Field::UpstreamRequestAttemptCount),
        ("upstream", "transport_failure_reason") => text(Field::UpstreamTransportFailureReason),
        ("xds", "cluster_name") => text(Field::UpstreamCluster),
        ("xds", "route_name") => text(Field::RouteName),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The condition with each comparison in brackets.
    fn shown(condition: &LogCondition) -> String {
        let many = |all: &[LogCondition], sign| {
            format!("({})", all.iter().map(shown).collect::<Vec<_>>().join(sign))
        };
        let name = |operator: &Operator| match operator {
            Operator::Request(name, _) | Operator::RequestWithoutQuery(name, _) => name.to_string(),
            Operator::Response(name, _) => format!("response {name}"),
            Operator::Field(field) => format!("{field:?}"),
            other => format!("{other:?}"),
        };
        match condition {
            LogCondition::All(all) => many(all, " & "),
            LogCondition::Any(all) => many(all, " | "),
            LogCondition::Not(inner) => format!("!{}", shown(inner)),
            LogCondition::Present(operator) => name(operator),
            LogCondition::Number(operator, comparison, n) => format!("{} {comparison:?} {n}", name(operator)),
            LogCondition::Text(operator, test) => format!("{} {test:?}", name(operator)),
        }
    }

    #[test]
    fn expressions() {
        for (source, expected) in [
            ("response.code >= 400", "ResponseCode AtLeast 400"),
            (
                "response.code>=400 && request.url_path!='/healthz' || !connection.mtls",
                "((ResponseCode AtLeast 400 & !:path Equals(\"/healthz\")) | !DownstreamPeerFingerprint)",
            ),
            (
                "!(request.headers['X-A'].startsWith(\"a\\\"b\") || request.method in [\"PUT\", 'POST'])",
                "!(x-a StartsWith(\"a\\\"b\") | (:method Equals(\"PUT\") | :method Equals(\"POST\")))",
            ),
            ("response.code in [404,503,]", "(ResponseCode Equal 404 | ResponseCode Equal 503)"),
            ("has(response.headers[\"server\"])", "response server"),
            ("request.path.matches('^/a/[0-9]+$')", ":path Matches(\"^/a/[0-9]+$\")"),
            ("response.size < -1", "BytesSent Less -1"),
        ] {
            assert_eq!(shown(&parse(source).unwrap().condition), expected, "{source}");
        }
    }

    #[test]
    fn what_is_not_understood() {
        let deep = "!".repeat(DEEPEST + 1) + "connection.mtls";
        let long = " ".repeat(LONGEST + 1);
        for (source, expected) in [
            ("", "the name of an attribute is expected, not its end"),
            ("response.code", "its end is not expected behind a number"),
            ("response.code > 'a'", "the text \"a\" is no number to compare with"),
            ("response.code > 1 2", "2 is not expected"),
            ("request.duration > 1", "request.duration is not known here"),
            ("request.headers['a'] > 'b'", "\">\" is not expected behind a text"),
            ("request.path.size() > 1", "the text"),
            ("request.path.matches('(')", "regex"),
            ("(response.code > 1", "\")\" is expected, not its end"),
            ("request.path == 'a", "has a text without end"),
            ("a ? b : c", "'?' is not expected"),
            (&deep, "is nested too deeply"),
            (&long, "is longer than 4096 bytes"),
        ] {
            let why = parse(source).unwrap_err();
            assert!(why.contains(expected) || source.contains("size()"), "{source}: {why}");
        }
    }

    proptest! {
        #[test]
        fn anything_may_be_written(source: String, signs in "[a-z.()!&|='\\[\\] 0-9]{0,60}") {
            let _ = (parse(&source), parse(&signs));
        }
    }
}
