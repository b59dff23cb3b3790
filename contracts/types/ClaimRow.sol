// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

/// @dev Where in calldata a row of a packed claim begins. What the rows of a call share is not in them.
///
///  0       20                40      45     77                   89             101  133  165
///  | payer | payerAuthorizer | delay | salt | maxClaimableAmount | totalClaimed | r  | vs |
type ClaimRow is uint256;

using ClaimRowLib for ClaimRow global;

library ClaimRowLib {
    uint256 internal constant SIZE = 165;

    /// @dev Row `i`; the caller has checked that the bytes hold it.
    function at(bytes calldata rows, uint256 i) internal pure returns (ClaimRow row) {
        assembly ("memory-safe") {
            row := add(rows.offset, mul(i, SIZE))
        }
    }

    function payer(ClaimRow row) internal pure returns (address) {
        return address(uint160(_word(row, 0) >> 96));
    }

    function payerAuthorizer(ClaimRow row) internal pure returns (address) {
        return address(uint160(_word(row, 20) >> 96));
    }

    function withdrawDelay(ClaimRow row) internal pure returns (uint40) {
        return uint40(_word(row, 40) >> 216);
    }

    function salt(ClaimRow row) internal pure returns (bytes32) {
        return bytes32(_word(row, 45));
    }

    function maxClaimableAmount(ClaimRow row) internal pure returns (uint256) {
        return _word(row, 77) >> 160;
    }

    function totalClaimed(ClaimRow row) internal pure returns (uint256) {
        return _word(row, 89) >> 160;
    }

    function r(ClaimRow row) internal pure returns (bytes32) {
        return bytes32(_word(row, 101));
    }

    function vs(ClaimRow row) internal pure returns (bytes32) {
        return bytes32(_word(row, 133));
    }

    function _word(ClaimRow row, uint256 offset) private pure returns (uint256 word) {
        assembly ("memory-safe") {
            word := calldataload(add(row, offset))
        }
    }
}
