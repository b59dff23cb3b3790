// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

/// @dev States of draft ERC-8183.
enum JobStatus {
    Open,
    Funded,
    Submitted,
    Completed,
    Rejected,
    Expired
}

/// @dev A job as readers of draft ERC-8183 know it.
struct Job {
    uint256 id;
    address client;
    address provider;
    address evaluator;
    string description;
    uint256 budget;
    uint256 expiredAt;
    JobStatus status;
    address hook;
}

/// @title IERC8183Jobs
/// @notice The reading side of draft ERC-8183 (Agentic Commerce).
interface IERC8183Jobs {
    function getJob(uint256 jobId) external view returns (Job memory);
    function paymentToken() external view returns (address);
}
