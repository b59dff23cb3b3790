// One JSON line in, one JSON line out: how the tests in Rust speak with these programs. The first
// line says what to be; each further line is a command. The end of standard input ends the program.
import { createInterface } from "node:readline";

/** Answers each line by `start(line)` at first and by what that returned from then on. */
export function serve(start) {
  const lines = createInterface({ input: process.stdin });
  let answer = null;
  let turn = Promise.resolve();
  const say = (value) => process.stdout.write(JSON.stringify(value, bigints) + "\n");
  lines.on("line", (line) => {
    turn = turn.then(async () => {
      try {
        const command = JSON.parse(line);
        if (answer) return say(await answer(command));
        const started = await start(command);
        answer = started.answer;
        say(started.ready);
      } catch (error) {
        say({ error: error?.message ?? String(error) });
      }
    });
  });
  lines.on("close", () => process.exit(0));
}

function bigints(_, value) {
  return typeof value === "bigint" ? value.toString() : value;
}

/** A chain for viem: whatever its id, at the node given. */
export function chainOf({ chainId, rpc }) {
  return {
    id: chainId,
    name: `chain ${chainId}`,
    nativeCurrency: { name: "Ether", symbol: "ETH", decimals: 18 },
    rpcUrls: { default: { http: [rpc] } },
  };
}

/** What a test wants to know of an answer: status, headers, body, and how often the wire was used. */
export async function told(response, sent) {
  return {
    status: response.status,
    headers: Object.fromEntries(response.headers),
    body: await response.text(),
    requests: sent.splice(0),
  };
}

/** `fetch` that notes what it sends: method, URL, headers, and the status of what came back. */
export function noting(sent) {
  return async (input, init) => {
    const request = new Request(input, init);
    const note = {
      method: request.method,
      url: request.url,
      headers: Object.fromEntries(request.headers),
    };
    sent.push(note);
    const response = await globalThis.fetch(request);
    note.status = response.status;
    return response;
  };
}
