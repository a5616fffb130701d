use ahash::AHashMap;
use std::sync::{Arc, Weak};
use tidegate_model::{Anchoring, InvalidPattern, Pattern};

/// The patterns of a table, each compiled once and shared with the tables that follow.
#[derive(Clone, Debug, Default)]
pub(crate) struct Patterns(AHashMap<(Arc<str>, Anchoring), Weak<Pattern>>);

impl Patterns {
    /// The compiled pattern, from the cache where it is still in use.
    pub(crate) fn get(
        &mut self,
        pattern: &Arc<str>,
        anchoring: Anchoring,
    ) -> Result<Arc<Pattern>, InvalidPattern> {
        let key = (pattern.clone(), anchoring);
        if let Some(known) = self.0.get(&key).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let compiled = Arc::new(Pattern::compile(pattern, anchoring)?);
        self.0.insert(key, Arc::downgrade(&compiled));
        Ok(compiled)
    }

    /// Forgets the patterns that no table uses any more.
    pub(crate) fn sweep(&mut self) {
        self.0.retain(|_, p| p.strong_count() > 0);
    }
}
