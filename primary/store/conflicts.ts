/** Whether the database refused a row because a unique index has its value already. */
export function isUniqueViolation(error: unknown): boolean {
  return hasCode(error, '23505')
}

function hasCode(error: unknown, code: string): boolean {
  return typeof error === 'object' && error !== null && 'code' in error && error.code === code
}
