//! What only the page's tests ask of the house.

use crate::house::House;

impl House {
    /// Stops the coordinator and starts it again, on the same port too.
    pub(crate) async fn restart_in_place(self) -> Self {
        let path = self.folder.path().join("coordinator.toml");
        let config = std::fs::read_to_string(&path).unwrap();
        let (_, port) = self.url.rsplit_once(':').unwrap();
        std::fs::write(&path, config.replace("127.0.0.1:0", &format!("127.0.0.1:{port}"))).unwrap();
        self.restart().await
    }

    /// The token that the first start wrote under `name`.
    pub(crate) fn token(&self, name: &str) -> String {
        let path = self.folder.path().join(format!("data/tokens/{name}.token"));
        std::fs::read_to_string(path).unwrap()
    }
}
