import type { FeedRequestLine, LeaseAnswerLine } from '../../shared/replication/feed.ts'
import type { LeaseRequest } from '../../shared/replication/lease.ts'

/** Leases that are asked for over the feed. */
export interface FeedLeases {
  /** @returns undefined when no answer comes in time, or the feed ends before */
  ask(request: LeaseRequest): Promise<LeaseAnswerLine | undefined>
  /** An answer came; one that nobody waits for any more is passed by. */
  take(answer: LeaseAnswerLine): void
  end(): void
}

/**
 * @param send writes to the feed
 * @param answerMs how long an answer is waited for
 */
export function createFeedLeases(send: (text: string) => void, answerMs: number): FeedLeases {
  const waiting = new Map<string, (answer: LeaseAnswerLine | undefined) => void>()
  return {
    ask: (request) =>
      new Promise((resolve) => {
        const { nonce } = request
        const settle = (answer: LeaseAnswerLine | undefined) => {
          clearTimeout(late)
          waiting.delete(nonce)
          resolve(answer)
        }
        const late = setTimeout(() => settle(undefined), answerMs).unref()
        waiting.set(nonce, settle)
        const line: FeedRequestLine = { lease: request }
        send(`${JSON.stringify(line)}\n`)
      }),
    take: (answer) => waiting.get(answer.nonce)?.(answer),
    end() {
      for (const settle of waiting.values()) settle(undefined)
    },
  }
}
