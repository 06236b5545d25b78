//! A node is cut off from the two others, and joined again.

use std::time::Duration;

use tokio::time::sleep;

use crate::cluster::until_online;
use crate::cluster::whole;
use crate::nodes::LANE;
use crate::nodes::Load;

/// Longer than the cluster takes to notice.
const CUT: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn the_node_that_leads_a_lane_is_cut_off_and_joined_again() {
    let cluster = whole().await;
    let load = Load::start(&cluster).await;
    let leader = cluster.leader_of(&load.run.vhost, LANE).await.unwrap();
    cluster.cut(leader).await.unwrap();
    load.run.note("the leader is cut off");
    sleep(CUT).await;
    cluster.heal(leader).await.unwrap();
    until_online(&cluster, &load.run.vhost, LANE, 3).await;
    load.goes_on("it is joined again").await;
    load.ends_well(2).await;
}
