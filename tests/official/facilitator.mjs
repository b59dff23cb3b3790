// The official facilitator in this process; `key` is its gas key.
import { createWalletClient, http, publicActions } from "viem";
import { privateKeyToAccount } from "viem/accounts";
import { x402Facilitator } from "@x402/core/facilitator";
import { toFacilitatorEvmSigner } from "@x402/evm";
import { ExactEvmScheme } from "@x402/evm/exact/facilitator";
import { BatchSettlementEvmScheme } from "@x402/evm/batch-settlement/facilitator";
import { chainOf } from "./lines.mjs";

export function local(config) {
  const account = privateKeyToAccount(config.key);
  const chain = chainOf(config);
  const wallet = createWalletClient({ account, chain, transport: http(), pollingInterval: 50 });
  const client = wallet.extend(publicActions);
  const signer = toFacilitatorEvmSigner({ ...client, address: account.address });
  const network = `eip155:${config.chainId}`;
  const official = new x402Facilitator()
    .register(network, new ExactEvmScheme(signer))
    .register(network, new BatchSettlementEvmScheme(signer));
  return {
    verify: (payload, requirements) => official.verify(payload, requirements),
    settle: (payload, requirements) => official.settle(payload, requirements),
    getSupported: async () => official.getSupported(),
  };
}
