use saphyr_parser::{Input, StrInput, input::is_blank_or_breakz, input::is_flow};

/// Text of which plain scalars end where they do for Kubernetes.
///
/// YAML 1.2 ends one at a `:` before `,` or a bracket too, and so reads `[2001:db8::]` as a list of a mapping.
/// For Kubernetes, only white space after it makes a `:` more than a character.
pub(super) struct Text<'t>(StrInput<'t>);

impl<'t> Text<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Text(StrInput::new(text))
    }
}

impl Input for Text<'_> {
    fn next_can_be_plain_scalar(&self, in_flow: bool) -> bool {
        match self.peek() {
            ':' => !is_blank_or_breakz(self.peek_nth(1)),
            '\u{feff}' => false,
            c => !(in_flow && is_flow(c)),
        }
    }

    fn lookahead(&mut self, count: usize) {
        self.0.lookahead(count);
    }

    fn buflen(&self) -> usize {
        self.0.buflen()
    }

    fn bufmaxlen(&self) -> usize {
        self.0.bufmaxlen()
    }

    fn raw_read_ch(&mut self) -> char {
        self.0.raw_read_ch()
    }

    fn raw_read_non_breakz_ch(&mut self) -> Option<char> {
        self.0.raw_read_non_breakz_ch()
    }

    fn skip(&mut self) {
        self.0.skip();
    }

    fn skip_n(&mut self, count: usize) {
        self.0.skip_n(count);
    }

    fn peek(&self) -> char {
        self.0.peek()
    }

    fn peek_nth(&self, n: usize) -> char {
        self.0.peek_nth(n)
    }

    fn peek_opt(&self) -> Option<char> {
        self.0.peek_opt()
    }
}
