//! axe-core on the open page, in the light scheme on a desktop and in the dark one on a phone. All
//! of its rules, even those that are only good practice.

use serde_json::Value;

use crate::browser::{Browser, Scheme};

/// Injected by the driver, to which the pages' policy against foreign script does not apply.
const AXE: &str = include_str!("vendor/axe-core-4.14.1.min.js");

/// Returns its findings as short texts: rule, element, problem.
const RUN: &str = "
    const done = arguments[arguments.length - 1];
    axe.run(document, { resultTypes: ['violations'] }).then(
        (results) => done(results.violations.flatMap((violation) => violation.nodes.map(
            (node) => `${violation.id}: ${node.target.join(' ')}: ${node.failureSummary}`))),
        (error) => done(['axe-core failed: ' + error]));";

/// Panics with the findings of axe-core.
pub(crate) async fn check(browser: &Browser, page: &str) {
    browser.client.execute(AXE, vec![]).await.unwrap();
    let mut found = Vec::new();
    // Colours depend on the scheme and layout on the width: two of the four combinations show all.
    for (scheme, width, height) in [(Scheme::Light, 1280, 900), (Scheme::Dark, 390, 844)] {
        browser.scheme(scheme).await;
        browser.resize(width, height).await;
        let violations = browser.client.execute_async(RUN, vec![]).await.unwrap();
        let Value::Array(violations) = violations else {
            panic!("{violations}")
        };
        found.extend(
            violations
                .iter()
                .map(|violation| format!("{scheme:?}, {width} wide: {violation}")),
        );
        // A page wider than the screen is scrolled in two directions.
        let wide = browser
            .client
            .execute("return document.documentElement.scrollWidth", vec![])
            .await
            .unwrap();
        if wide.as_u64() > Some(width.into()) {
            found.push(format!("{wide} wide on a screen of {width}"));
        }
    }
    browser.scheme(Scheme::Light).await;
    browser.resize(1280, 900).await;
    assert!(found.is_empty(), "{page}:\n{}", found.join("\n"));
}
