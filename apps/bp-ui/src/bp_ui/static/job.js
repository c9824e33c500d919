// The progress of jobs on this page; when one ends, the page is fetched anew, for it then shows what came of it.
import { $, again, all, element, getJson } from "/static/app.js";

const then = new URLSearchParams(location.search).get("then");

const amount = (stage, count) => (stage.unit === "B" ? (count >= 1e8 ? `${(count / 1e9).toFixed(2)} GB` : `${(count / 1e6).toFixed(1)} MB`) : count);

function follow(card) {
  const follows = card.parentElement.dataset.follow;
  again(1, async () => {
    const job = await getJson(`/jobs/${card.dataset.job}/state`);
    if (follows && job.run) {
      location.replace(`${follows}${job.run}`);
      return false;
    }
    $(".stages", card).replaceChildren(...job.stages.map((stage) => {
      const item = document.createElement("li");
      item.append(element("span", stage.stage));
      if (stage.total) {
        const bar = document.createElement("progress");
        bar.max = stage.total;
        bar.value = stage.done;
        bar.setAttribute("aria-label", stage.stage);
        item.append(bar, element("span", `${amount(stage, stage.done)} of ${amount(stage, stage.total)}`, "num"));
      }
      return item;
    }));
    if (["waiting", "running"].includes(job.state)) return true;
    const own = job.state === "finished" && then?.startsWith("/") && !then.startsWith("//");
    own ? location.replace(then) : location.reload();
    return false;
  });
}

all(".job[data-open=yes]").forEach(follow);

// A job that was begun beside others on a page stays there.
document.addEventListener("posted", (event) => event.detail?.stopping && event.target.replaceWith(element("span", "stopping …", "small")));
