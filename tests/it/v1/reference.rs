//! The references, docs/api-v1.md and docs/api-v2.md, say what the program does.

use lockable::api::calls::CALLS;
use lockable::api::problem::Code;
use lockable::api::v1;

const REFERENCE: &str = include_str!("../../../docs/api-v1.md");
const REFERENCE_2: &str = include_str!("../../../docs/api-v2.md");

#[test]
fn the_references_have_every_code_with_its_status_and_meaning() {
    let (of_2, of_1): (Vec<Code>, Vec<Code>) = Code::ALL
        .iter()
        .partition(|code| Code::OF_VERSION_2.contains(code));
    for (reference, codes) in [(REFERENCE, of_1), (REFERENCE_2, of_2)] {
        for code in &codes {
            let row = format!(
                "| {} | `{}` | {} |",
                code.status().as_u16(),
                code.as_str(),
                code.meaning()
            );
            assert!(reference.contains(&row), "a reference lacks:\n{row}");
        }
        let rows = reference
            .lines()
            .filter(|line| line.starts_with("| 4") || line.starts_with("| 5"))
            .count();
        assert_eq!(rows, codes.len(), "a reference has a code that is none");
    }
}

#[test]
fn the_reference_has_every_call_with_its_parameters() {
    for call in CALLS {
        let row = format!("| `{}` | ", call.template);
        assert!(REFERENCE.contains(&row), "docs/api-v1.md lacks:\n{row}");
        for parameter in call.parameters {
            let row = REFERENCE
                .lines()
                .find(|line| line.starts_with(&format!("| `{parameter}` | ")))
                .unwrap_or_else(|| panic!("docs/api-v1.md lacks {parameter}"));
            assert!(
                row.contains(call.name) || row.contains("all three"),
                "{parameter} goes with {} too:\n{row}",
                call.name
            );
        }
    }
}

#[test]
fn the_reference_has_every_header() {
    for header in [
        v1::FENCING_TOKEN,
        v1::LEASE_ID,
        v1::LEASE_MS,
        v1::EXPIRES_IN_MS,
        v1::WAITED_MS,
    ] {
        assert!(
            REFERENCE
                .to_ascii_lowercase()
                .contains(&format!("| `{header}` |")),
            "docs/api-v1.md lacks {header}"
        );
    }
}
