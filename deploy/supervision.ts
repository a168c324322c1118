import type { OutportConfig } from './programs.ts'

/** What a supervisor tells its child, over the channel between them: secrets never go by argv or environment. */
export type ToChild =
  | { readonly kind: 'start'; readonly config: OutportConfig }
  | { readonly kind: 'stop'; readonly deadlineMs: number }

/** Where a started program is. */
export interface Ready {
  readonly urls: Readonly<Record<string, string>>
  readonly metrics: string
}

/** What a child tells its supervisor. */
export type FromChild =
  | ({ readonly kind: 'ready' } & Ready)
  /** It cannot start; the message is one line for people. */
  | { readonly kind: 'failed'; readonly message: string }

/** How long transfers may go on when nobody can ask for more time: the supervisor is gone. */
export const orphanedDeadlineMs = 500
