//! Typed row ids, so that an account's number is never taken for a namespace's.

macro_rules! row_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord,
            serde::Serialize, serde::Deserialize, sqlx::Type,
        )]
        #[serde(transparent)]
        #[sqlx(transparent)]
        pub struct $name(pub i64);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = std::num::ParseIntError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

row_id!(
    /// An account.
    AccountId
);
row_id!(
    /// A namespace, public or private.
    NamespaceId
);
row_id!(
    /// An API token's row; not the token.
    TokenId
);
row_id!(
    /// A plan.
    PlanId
);

impl NamespaceId {
    /// The namespace that all accounts share. Made by the first migration.
    pub const PUBLIC: Self = Self(1);

    /// The name of the namespace that all accounts share.
    pub const PUBLIC_NAME: &str = "public";
}
