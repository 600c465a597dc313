// Live progress; without it the page reloads itself.
const job = document.querySelector("[data-job]");
if (job) {
  const bar = job.querySelector("[data-progress]");
  const text = job.querySelector("[data-text]");
  const source = new EventSource(`/jobs/${job.dataset.job}/events`);
  source.onmessage = (event) => {
    const { state, progress } = JSON.parse(event.data);
    if (state !== "waiting" && state !== "running") {
      source.close();
      location.reload();
      return;
    }
    if (progress.total) {
      bar.max = progress.total;
      bar.value = progress.done;
    }
    if (state === "running") text.textContent = progress.text || "starting";
    const badge = job.querySelector("[data-state] .badge");
    badge.textContent = state;
    badge.className = `badge ${state}`;
  };
}
