// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {Strings} from "@openzeppelin/contracts/utils/Strings.sol";
import {IERC8183Jobs, Job, JobStatus} from "./interfaces/IERC8183Jobs.sol";
import {IWorkEscrow, Status, Terms} from "./interfaces/IWorkEscrow.sol";

/// @title JobReader
/// @notice Shows WorkEscrow's escrows to readers of draft ERC-8183 as its jobs. Reads; holds and decides nothing.
///
/// @dev EVENTS come from the escrow itself, under the draft's names and types: who indexes those needs no reader.
/// WorkEscrow keeps no terms, so who reads by id (`getJob`) has to have them published here once, by anyone: they
/// hash to the id or are refused. Who has the terms asks `jobOf`, and pays nothing.
///
/// MAPPING. Client, provider, evaluator are payer, payee, arbiter; the budget is the amount, the expiry `submitBy`; the
/// description is `jobHash` in hex. The draft knows no dispute: a disputed job is Submitted. Its Completed means that
/// the last step paid the provider's side, its Rejected and Expired that it paid the client.
contract JobReader is IERC8183Jobs {
    IWorkEscrow public immutable ESCROW;

    mapping(uint256 jobId => Terms) private _terms;

    event JobPublished(uint256 indexed jobId);

    error UnknownJob(uint256 jobId);

    constructor(IWorkEscrow escrow) {
        ESCROW = escrow;
    }

    /// @notice Keeps the terms of an escrow that exists, for `getJob`.
    function publish(Terms calldata terms) external returns (uint256 jobId) {
        bytes32 escrowId = ESCROW.getEscrowId(terms);
        jobId = uint256(escrowId);
        require(ESCROW.getState(escrowId).status != Status.None, UnknownJob(jobId));
        _terms[jobId] = terms;
        emit JobPublished(jobId);
    }

    /// @inheritdoc IERC8183Jobs
    function getJob(uint256 jobId) external view returns (Job memory) {
        Terms memory terms = _terms[jobId];
        require(terms.amount != 0, UnknownJob(jobId));
        return _job(jobId, terms);
    }

    /// @notice The same without publishing. Open: not funded yet.
    function jobOf(Terms calldata terms) external view returns (Job memory) {
        return _job(uint256(ESCROW.getEscrowId(terms)), terms);
    }

    /// @inheritdoc IERC8183Jobs
    function paymentToken() external view returns (address) {
        return ESCROW.TOKEN();
    }

    function _job(uint256 jobId, Terms memory terms) private view returns (Job memory) {
        Status status = ESCROW.getState(bytes32(jobId)).status;
        return Job({
            id: jobId,
            client: terms.payer,
            provider: terms.payee,
            evaluator: terms.arbiter,
            description: Strings.toHexString(uint256(terms.jobHash), 32),
            budget: terms.amount,
            expiredAt: terms.submitBy,
            status: status == Status.Disputed ? JobStatus.Submitted : JobStatus(uint8(status)),
            hook: address(0)
        });
    }
}
