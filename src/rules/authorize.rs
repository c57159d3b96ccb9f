//! Who may do what: role × class of route, deny by default.
//!
//! | class | admin | deployer | viewer | worker | region | agent |
//! |---|---|---|---|---|---|---|
//! | read | yes | yes | yes | - | - | - |
//! | build | yes | yes | - | - | - | - |
//! | deploy | yes | yes | - | - | - | - |
//! | manage | yes | - | - | - | - | - |
//! | worker | - | - | - | yes | - | - |
//! | region | - | - | - | - | yes | - |
//! | agent | - | - | - | - | - | yes |
//!
//! A test walks every route of the coordinator with every role against this table.

use crate::model::role::Role;

/// What a route does, as far as permission goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Looks; changes nothing.
    Read,
    /// Queues, cancels and retries builds.
    Build,
    /// Moves releases to hosts.
    Deploy,
    /// Apps, tokens, builds off the trunk, and what else shapes the service.
    Manage,
    /// A worker's own calls.
    Worker,
    /// A region's own calls.
    Region,
    /// A host's own calls, to its region.
    Agent,
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 7] = [
        Self::Read,
        Self::Build,
        Self::Deploy,
        Self::Manage,
        Self::Worker,
        Self::Region,
        Self::Agent,
    ];

    /// The word in documents.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Build => "build",
            Self::Deploy => "deploy",
            Self::Manage => "manage",
            Self::Worker => "worker",
            Self::Region => "region",
            Self::Agent => "agent",
        }
    }
}

/// Whether a token of `role` may call a route of `class`.
#[must_use]
pub fn may(role: Role, class: Class) -> bool {
    match class {
        Class::Read => matches!(role, Role::Admin | Role::Deployer | Role::Viewer),
        Class::Build | Class::Deploy => matches!(role, Role::Admin | Role::Deployer),
        Class::Manage => role == Role::Admin,
        Class::Worker => role == Role::Worker,
        Class::Region => role == Role::Region,
        Class::Agent => role == Role::Agent,
    }
}

/// The roles that may call a route of `class`, for documents and refusals.
pub fn roles(class: Class) -> impl Iterator<Item = Role> {
    Role::ALL.into_iter().filter(move |role| may(*role, class))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_the_table_in_the_module_doc() {
        let table = include_str!("authorize.rs");
        let rows = table.lines().filter_map(|line| line.strip_prefix("//! | "));
        let mut seen = 0;
        for row in rows.filter(|row| !row.starts_with("class")) {
            let cells: Vec<&str> = row.trim_end_matches(" |").split(" | ").collect();
            let class = Class::ALL.into_iter().find(|class| class.word() == cells[0]).unwrap();
            for (role, cell) in Role::ALL.into_iter().zip(&cells[1..]) {
                assert_eq!(may(role, class), *cell == "yes", "{class:?} {role:?}");
            }
            seen += 1;
        }
        assert_eq!(seen, Class::ALL.len());
    }

    #[test]
    fn machines_may_only_make_their_own_calls() {
        for role in [Role::Worker, Role::Region, Role::Agent] {
            assert_eq!(Class::ALL.into_iter().filter(|class| may(role, *class)).count(), 1);
        }
    }
}
