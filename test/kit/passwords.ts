import type { ScryptCost } from '../../shared/auth/passwords.ts'

/** Of programs in tests that are about something else: what people's passwords need takes a third of a CPU second each. */
export const cheapPasswords: ScryptCost = { logN: 10, blockSize: 8, parallelism: 1 }
