import { createHash } from 'node:crypto'
import { isIPv6 } from 'node:net'
import { createLru } from '../memory/lru.ts'

export interface LogInLimitOptions {
  /** Failed log-ins of one account from one address within the window. */
  readonly failures: number
  readonly windowMs: number
  /** Accounts and places that are remembered; the least recently tried are forgotten. */
  readonly maxEntries?: number
  /** Epoch ms. */
  readonly now: () => number
}

/** Where a log-in comes from. */
export interface LogInOrigin {
  readonly address: string
  /** The id of the edge that relays it and names the address. */
  readonly edge?: string | undefined
}

/** What a try may do. */
export type LogInTry =
  /** Checks the secret, and says whether it was wrong: anything else is no failure. */
  | { readonly allowed: true; settle(outcome: { readonly failed: boolean }): void }
  /** Must wait; `first` is true once a window, so that a flood leaves one line in the audit log. */
  | { readonly allowed: false; readonly retryAfterSeconds: number; readonly first: boolean }

export interface LogInLimit {
  /**
   * Counts a try before its secret is checked, so that a burst of guesses cannot pass while the first
   * is still being checked.
   */
  take(account: string, origin: LogInOrigin): LogInTry
}

interface Window {
  /** Failed, or not settled. */
  tries: number
  unsettled: number
  told: boolean
  readonly endsAt: number
}

/** An edge stands for many clients, and might name an address that it made up. */
const edgeFactor = 10

/**
 * Limits log-ins per (account, address) and, through an edge, per (account, edge) too, whether or not the account
 * exists. What is remembered is bounded, and costs whoever would push it out one derivation for each entry: only a
 * failure is an entry.
 */
export function createLogInLimit(options: LogInLimitOptions): LogInLimit {
  const { failures, windowMs, now } = options
  const failed = createLru<string, Window>({ max: options.maxEntries ?? 10_000 })
  const unsettled = new Map<string, Window>()

  const windowOf = (key: string, time: number): Window => {
    const known = unsettled.get(key) ?? failed.get(key)
    if (known !== undefined && known.endsAt > time) return known
    return { tries: 0, unsettled: 0, told: false, endsAt: time + windowMs }
  }

  const settle = (key: string, window: Window, isFailure: boolean) => {
    window.unsettled -= 1
    if (!isFailure) window.tries -= 1
    // Else the next window has begun meanwhile.
    if (unsettled.get(key) !== window) return
    if (window.unsettled === 0) unsettled.delete(key)
    if (isFailure) failed.set(key, window)
  }

  return {
    take(account, { address, edge }) {
      const time = now()
      const limits = [{ place: networkOf(address), most: failures }]
      if (edge !== undefined) limits.push({ place: `edge ${edge}`, most: failures * edgeFactor })
      const counted = limits.map(({ place, most }) => {
        const key = keyOf(account, place)
        return { key, most, window: windowOf(key, time) }
      })
      const full = counted.find(({ window, most }) => window.tries >= most)
      if (full !== undefined) {
        const { window } = full
        const first = !window.told
        window.told = true
        const retryAfterSeconds = Math.max(1, Math.ceil((window.endsAt - time) / 1000))
        return { allowed: false, retryAfterSeconds, first }
      }
      for (const { key, window } of counted) {
        window.tries += 1
        window.unsettled += 1
        unsettled.set(key, window)
      }
      return {
        allowed: true,
        settle(outcome) {
          for (const { key, window } of counted) settle(key, window, outcome.failed)
        },
      }
    },
  }
}

/** A hash, so that long names take no more memory than short ones. */
function keyOf(account: string, place: string): string {
  return createHash('sha256').update(`${account}\0${place}`).digest('base64url').slice(0, 22)
}

/** One IPv6 host has a whole /64 to call from. */
function networkOf(address: string): string {
  if (!isIPv6(address)) return address
  const [head = '', tail] = address.split('::')
  const left = head === '' ? [] : head.split(':')
  const right = tail === undefined || tail === '' ? [] : tail.split(':')
  const zeros = Array.from({ length: Math.max(0, 8 - left.length - right.length) }, () => '0')
  return [...left, ...(tail === undefined ? [] : zeros), ...right].slice(0, 4).join(':')
}
