// The buyer of x402 version 1 (x402-fetch); lines as in ../buyer.mjs. It knows 84532 and no local chain.
import { createSigner, wrapFetchWithPayment } from "x402-fetch";
import { privateKeyToAccount } from "viem/accounts";
import { noting, serve, told } from "../lines.mjs";

serve(async ({ key }) => {
  const sent = [];
  const plain = noting(sent);
  const pay = wrapFetchWithPayment(plain, await createSigner("base-sepolia", key));
  let last = null;
  const answer = async ({ again, url, method = "GET", headers = {}, body }) => {
    if (again) return told(await plain(last.url, last.init), sent);
    const response = await pay(url, { method, headers, body });
    last = { url, init: { method, headers: sent.at(-1).headers, body } };
    return told(response, sent);
  };
  return { ready: { address: privateKeyToAccount(key).address }, answer };
});
