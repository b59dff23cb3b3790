//! What the same chain takes at most: plain transfers, signed before the clock starts.

use std::time::{Duration, Instant};

use alloy::{
    consensus::{SignableTransaction as _, TxEip1559, TxEnvelope},
    eips::eip2718::Encodable2718 as _,
    primitives::{Address, B256, Bytes, TxKind, U256},
    signers::{SignerSync as _, local::PrivateKeySigner},
    sol,
    sol_types::SolCall as _,
};
use anyhow::{Result, bail};
use bursar::{
    devnet::{Manifest, Profile, ProfileName},
    keys::{Keys, Mnemonic},
    rpc::{At, Rpc},
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

sol! {
    function mint(address to, uint256 amount) external returns (bool);
    function transfer(address to, uint256 amount) external returns (bool);
}

/// anvil's accounts that nobody else uses: 0 deploys, 1 to 3 are operators.
const SENDERS: std::ops::Range<u32> = 4..10;
/// Transactions in one JSON-RPC request.
const TOGETHER: usize = 50;
/// Longest wait for the last block.
const LIMIT: Duration = Duration::from_secs(60);

/// What is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asset {
    Ether,
    Usdc,
}

/// Senders with USDC, each with its own connection to the chain.
pub struct Ceiling {
    rpc: String,
    chain_id: u64,
    usdc: Address,
    payees: Vec<Address>,
    senders: Vec<PrivateKeySigner>,
}

impl Ceiling {
    /// Gives the senders USDC.
    pub async fn prepare(manifest: &Manifest) -> Result<Self> {
        let words = Profile::load(ProfileName::Local)?.accounts.mnemonic;
        let keys = Keys::from_mnemonic(&Mnemonic::parse(&words)?)?;
        let senders = SENDERS.map(|i| keys.agent(i)).collect::<Result<Vec<_>, _>>()?;
        let rpc = Rpc::new(vec![manifest.rpc.clone()], manifest.chain_id, Duration::from_secs(15))?;
        for sender in &senders {
            let amount = U256::from(1_000_000_000_u64);
            let data: Bytes = mintCall { to: sender.address(), amount }.abi_encode().into();
            let call = json!([{ "from": manifest.deployer, "to": manifest.usdc, "data": data }]);
            rpc.call::<B256>("eth_sendTransaction", call).await?;
        }
        Ok(Self {
            rpc: manifest.rpc.clone(),
            chain_id: manifest.chain_id,
            usdc: manifest.usdc,
            payees: manifest.payees.values().map(|payee| payee.address).collect(),
            senders,
        })
    }

    /// Sends about `count` transfers from all senders at once; returns how many a second were mined,
    /// from the first send to the last block.
    pub async fn measure(&self, asset: Asset, count: u64) -> Result<f64> {
        let each = count.div_ceil(self.senders.len() as u64);
        let mut lists = Vec::new();
        for sender in &self.senders {
            let rpc = Rpc::new(vec![self.rpc.clone()], self.chain_id, Duration::from_secs(15))?;
            let nonce = rpc.transaction_count(sender.address(), At::Latest).await?;
            let raw: Vec<Value> = (nonce..nonce + each)
                .map(|nonce| self.sign(asset, sender, nonce).map(|raw| json!([raw])))
                .collect::<Result<_>>()?;
            lists.push((rpc, sender.address(), nonce + each, raw));
        }
        let started = Instant::now();
        let mut sending = JoinSet::new();
        for (rpc, sender, end, raw) in lists {
            sending.spawn(async move {
                for chunk in raw.chunks(TOGETHER) {
                    for answer in rpc.batch::<B256>("eth_sendRawTransaction", chunk).await? {
                        answer?;
                    }
                }
                while rpc.transaction_count(sender, At::Latest).await? < end {
                    if started.elapsed() > LIMIT {
                        bail!("the chain did not mine {each} transfers of {sender}");
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                anyhow::Ok(())
            });
        }
        while let Some(sender) = sending.join_next().await {
            sender??;
        }
        Ok((each * self.senders.len() as u64) as f64 / started.elapsed().as_secs_f64())
    }

    fn sign(&self, asset: Asset, sender: &PrivateKeySigner, nonce: u64) -> Result<Bytes> {
        let payee = self.payees[usize::try_from(nonce)? % self.payees.len()];
        let (to, value, input) = match asset {
            Asset::Ether => (payee, U256::from(1), Bytes::new()),
            Asset::Usdc => {
                let call = transferCall { to: payee, amount: U256::from(100) };
                (self.usdc, U256::ZERO, call.abi_encode().into())
            }
        };
        let unsigned = TxEip1559 {
            chain_id: self.chain_id,
            nonce,
            gas_limit: if asset == Asset::Ether { 21_000 } else { 100_000 },
            max_fee_per_gas: 100_000_000_000,
            max_priority_fee_per_gas: 10_000_000,
            to: TxKind::Call(to),
            value,
            access_list: Default::default(),
            input,
        };
        let signature = sender.sign_hash_sync(&unsigned.signature_hash())?;
        Ok(TxEnvelope::from(unsigned.into_signed(signature)).encoded_2718().into())
    }
}
