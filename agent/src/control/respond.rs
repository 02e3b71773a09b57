//! What is answered on the control socket.

use super::{Agent, socket::Respond};
use crate::{
    protocol::{Request, answer},
    status::Status,
};

impl Respond for Agent {
    async fn respond(&self, request: Request) -> String {
        match request {
            Request::Status => answer(Ok(Status::of(&self.observe_all()))),
        }
    }
}
