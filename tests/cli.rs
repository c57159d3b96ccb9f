//! The command line as a person or a script meets it: words, streams, exit codes.
//!
//! Against a small coordinator that answers what a test tells it to; the flow with
//! real processes is in `flow.rs`.

#![expect(clippy::unwrap_used, reason = "a test that can't go on stops there")]

#[path = "cli/approving.rs"]
mod approving;
#[path = "cli/choosing.rs"]
mod choosing;
#[path = "cli/codes.rs"]
mod codes;
#[path = "cli/completing.rs"]
mod completing;
#[path = "cli/doctor.rs"]
mod doctor;
#[path = "cli/documents.rs"]
mod documents;
#[path = "cli/finding.rs"]
mod finding;
#[path = "cli/following.rs"]
mod following;
#[path = "cli/freezing.rs"]
mod freezing;
#[path = "cli/generated.rs"]
mod generated;
#[path = "cli/holding.rs"]
mod holding;
#[path = "cli/installations.rs"]
mod installations;
#[path = "cli/installing.rs"]
mod installing;
#[path = "cli/kubernetes.rs"]
mod kubernetes;
#[path = "cli/meant.rs"]
mod meant;
#[path = "cli/outcomes.rs"]
mod outcomes;
#[path = "cli/planning.rs"]
mod planning;
#[path = "cli/plumbing.rs"]
mod plumbing;
#[path = "cli/project_file.rs"]
mod project_file;
#[path = "cli/references.rs"]
mod references;
#[path = "cli/samples.rs"]
mod samples;
#[path = "cli/schema.rs"]
mod schema;
#[path = "cli/setup.rs"]
mod setup;
#[path = "cli/staying.rs"]
mod staying;
#[path = "cli/storing.rs"]
mod storing;
#[path = "cli/support.rs"]
mod support;
#[path = "cli/terminal.rs"]
mod terminal;
#[path = "cli/waiting.rs"]
mod waiting;
#[path = "cli/why.rs"]
mod why;
