//! Short soaks; `tests/soak` runs the long ones.

use anyhow::Result;
use std::time::Duration;
use tidegate_tests::churn;
use tidegate_tests::soak::{self, Plan};

/// How late a busy machine may be.
const LAG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn no_reload_costs_a_request() -> Result<()> {
    let figures = soak::run(Plan { reloads: 60, live_within: LAG, truncates: false }).await?;
    crate::say(&figures.to_string());
    assert!(figures.answered() > 60, "hardly any load: {figures}");
    assert!(figures.goodbyes() > 0, "no listener went under load: {figures}");
    Ok(())
}

#[tokio::test]
async fn no_order_of_changes_costs_a_request_or_leads_it_astray() -> Result<()> {
    let seed = fastrand::u64(..);
    let plan = churn::Plan::Anything { changes: 400, pause: Duration::from_millis(60), seed };
    let figures = churn::run(plan, LAG).await?;
    crate::say(&format!("soak: {figures}"));
    assert!(figures.answered > 400, "hardly any load: {figures}");
    assert_eq!((figures.failed, figures.wrong), (0, 0), "seed {seed}: {figures}");
    Ok(())
}

#[tokio::test]
async fn endpoints_that_are_gone_get_no_requests() -> Result<()> {
    let plan = churn::Plan::Endpoints { endpoints: 100, replaced: 10, seconds: 8 };
    let figures = churn::run(plan, LAG).await?;
    crate::say(&format!("soak: {figures}"));
    assert!(figures.answered > 100, "hardly any load: {figures}");
    assert_eq!((figures.failed, figures.wrong), (0, 0), "{figures}");
    Ok(())
}
