//! A short soak; `tests/soak` runs the long one.

use anyhow::Result;
use std::time::Duration;
use tidegate_tests::soak::{self, Plan};

#[tokio::test]
async fn no_reload_costs_a_request() -> Result<()> {
    let plan = Plan { reloads: 60, live_within: Duration::from_secs(20), truncates: false };
    let figures = soak::run(plan).await?;
    crate::say(&figures.to_string());
    assert!(figures.answered() > 60, "hardly any load: {figures}");
    assert!(figures.goodbyes() > 0, "no listener went under load: {figures}");
    Ok(())
}
