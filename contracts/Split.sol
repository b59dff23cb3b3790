// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.30;

import {Payout} from "./interfaces/IWorkEscrow.sol";

/// @title Split
/// @notice How a captured total is cut among payouts and payee.
///
/// @dev THE CUT. One payout after the other takes its part of what those before it left: of a rest r, with b of the w
/// basis points that are left, floor(r * b / w); the payee has the last rest. Each part is a function of the total
/// alone, so captures may be cut as one likes; the parts sum to the total, because each is taken off a rest.
///
/// NO PART EVER FALLS. For a rest that grows from o to n: floor(n b / w) <= floor(o b / w) + (n - o), since b <= w. So the
/// part grows by at least 0 and by at most as much as the rest does, and what it leaves does not fall either. (A part
/// floor(total * b / 10000) for each payout would let the payee's rest fall: of shares of a third each, it
/// has 2 units of a total of 5 and none of 6; a capture of the sixth would have to take money back.)
///
/// ROUNDING. A part differs from the exact one by less than one unit for each payout before it: less than 8 units.
library Split {
    uint256 internal constant WHOLE = 10_000;
    uint256 internal constant MAX_PAYOUTS = 8;

    /// @dev Part of `rest` for `bps` of the `whole` basis points left; bps <= whole, rest < 2^64.
    function part(uint256 rest, uint256 bps, uint256 whole) internal pure returns (uint256) {
        if (bps == 0) return 0; // whole may be 0 then
        unchecked {
            return rest * bps / whole;
        }
    }

    /// @dev Every part of `total` < 2^64. The shares of `payouts` sum to at most 10,000.
    function parts(Payout[] calldata payouts, uint256 total)
        internal
        pure
        returns (uint256[] memory shares, uint256 payeeShare)
    {
        shares = new uint256[](payouts.length);
        uint256 whole = WHOLE;
        for (uint256 i; i < payouts.length; ++i) {
            shares[i] = part(total, payouts[i].bps, whole);
            total -= shares[i];
            whole -= payouts[i].bps;
        }
        return (shares, total);
    }
}
