use crate::decode::{Decode, Decoder};
use crate::value::Value;
use std::collections::BTreeMap;

/// A few values by name, in the order of the names. It takes no more memory than they do: where thousands of routes have
/// one header each, that of a tree adds up.
#[derive(Clone, Debug, PartialEq)]
pub struct SmallMap<T>(Box<[(String, T)]>);

impl<T> SmallMap<T> {
    /// The value of this name.
    pub fn get(&self, name: &str) -> Option<&T> {
        let at = self.0.binary_search_by(|(key, _)| key.as_str().cmp(name)).ok()?;
        Some(&self.0[at].1)
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and values, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &T)> {
        self.into_iter()
    }

    /// The names in order.
    pub fn keys(&self) -> impl Iterator<Item = &String> {
        self.iter().map(|(name, _)| name)
    }

    /// The values by name.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.iter().map(|(_, value)| value)
    }
}

impl<T> Default for SmallMap<T> {
    fn default() -> Self {
        SmallMap(Box::default())
    }
}

impl<T> FromIterator<(String, T)> for SmallMap<T> {
    fn from_iter<I: IntoIterator<Item = (String, T)>>(entries: I) -> Self {
        // of a name that comes twice the last counts
        SmallMap(entries.into_iter().collect::<BTreeMap<_, _>>().into_iter().collect())
    }
}

impl<T, const N: usize> From<[(String, T); N]> for SmallMap<T> {
    fn from(entries: [(String, T); N]) -> Self {
        entries.into_iter().collect()
    }
}

impl<'a, T> IntoIterator for &'a SmallMap<T> {
    type Item = (&'a String, &'a T);
    type IntoIter = std::iter::Map<std::slice::Iter<'a, (String, T)>, fn(&'a (String, T)) -> Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter().map(|(name, value)| (name, value))
    }
}

impl<T: Decode> Decode for SmallMap<T> {
    fn absent() -> Option<Self> {
        Some(SmallMap::default())
    }

    fn decode<'a>(value: &'a Value, at: &mut Decoder<'a>) -> Option<Self> {
        Some(BTreeMap::decode(value, at)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_name_and_the_last_counts() {
        let map = SmallMap::from([("b", 1), ("a", 2), ("b", 3)].map(|(name, n)| (name.to_owned(), n)));
        assert_eq!((map.get("a"), map.get("b"), map.get("c")), (Some(&2), Some(&3), None));
        assert_eq!(map.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert!(SmallMap::<u8>::default().is_empty());
    }
}
