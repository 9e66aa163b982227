//! The errors of events as problems.

use super::{Code, Problem};
use crate::events::EventsError;
use crate::locks::EngineError;
use crate::text::sentence;

impl From<EventsError> for Problem {
    fn from(error: EventsError) -> Self {
        match error {
            EventsError::Public => Self::new(Code::NotFound, sentence(&error)),
            EventsError::NotInPlan => Self::new(Code::PlanDoesNotAllow, sentence(&error)),
            EventsError::ShuttingDown => EngineError::ShuttingDown.into(),
            EventsError::Database(error) => error.into(),
        }
    }
}
