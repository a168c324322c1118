/** The options of every command that speaks to a primary. */
export const primaryOptions = {
  ca: {
    type: 'string',
    value: 'FILE',
    help: "the CAs of the primary's certificate (PEM), instead of the system's",
  },
  'insecure-http': {
    type: 'boolean',
    help: 'allow http:// to another machine: who is on the way reads the secrets',
  },
} as const
